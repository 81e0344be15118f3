# `make` lists what there is. `make demo` and `make test` do all the set-up themselves, on a machine with Python 3.11 or
# newer, make and pip. Variables: PYTHON (which Python makes the environment), TORCH_INDEX (where the CPU build of torch
# comes from, if neither pip's configuration nor PyTorch's own index will do), ARGS (more arguments for pytest or the demo).

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# One test process a core, which keeps to it (tests/conftest.py); a training test takes up to 2 GiB. The pipeline with a real
# vLLM has the machine to itself.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal
export TORCH_INDEX

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
PYTHON ?= $(shell for name in $(CANDIDATES); do $$name -c '$(FITS)' 2>/dev/null && { echo $$name; break; }; done)

CODE := flows generators training evaluation data_catalog tests benchmarks examples locks

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

.PHONY: setup
setup: $(VENV)/.tutelage-installed ## virtual environment with the pinned CPU packages

# Stamps, so that a second run starts at once and a changed lock is installed.
$(VENV)/.python-checked:
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || { \
		echo 'Python 3.11 to 3.14 is needed; found: $(or $(PYTHON),none), $(shell "$(or $(PYTHON),python3)" --version 2>&1).' >&2; \
		echo 'Install one, or name it: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { \
		echo 'The virtual environment could not be made (Debian and Ubuntu: apt install python3-venv).' >&2; exit 1; }
	@touch $@

$(VENV)/.lock-installed: locks/cpu.txt locks/install.sh $(VENV)/.python-checked
	@locks/install.sh $(BIN)/python
	@touch $@

# setuptools is in the lock, so that nothing is downloaded to build with; its remark on editable installs is no news.
$(VENV)/.tutelage-installed: pyproject.toml $(VENV)/.lock-installed
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install \
		--disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: setup ## the whole pipeline on the sandbox: documents in, a promoted model out (minutes, no network)
	$(BIN)/tutelage run examples/sandbox/tutelage.yaml $(ARGS)

.PHONY: test
test: lint ## everything: lint, types, layers, fast tests, then servers, training and the pipeline
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not gpu' $(ARGS)
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow and not vllm and not gpu' $(ARGS)
	$(BIN)/python -m pytest -m 'vllm and not gpu' $(ARGS)

.PHONY: test-fast
test-fast: setup ## the tests that take seconds
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not gpu' $(ARGS)

.PHONY: test-gpu
test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: setup ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: setup ## every benchmark in turn
	@for file in benchmarks/[a-z]*.py; do \
		module=$$(basename "$$file" .py); [ "$$module" = machine ] && continue; \
		echo; echo "== $$module"; $(BIN)/python -m "benchmarks.$$module" || exit 1; done

.PHONY: docs
docs: setup ## write docs/cli.md and docs/configuration.md from the code
	$(BIN)/python -m flows.reference --write

.PHONY: locks
locks: setup ## resolve locks/cpu.txt and locks/gpu.txt again (ARGS=--upgrade for the newest versions)
	$(BIN)/python locks/regenerate.py --torch-index "$(TORCH_INDEX)" $(ARGS)

.PHONY: clean
clean: ## remove the environment and what tools leave behind; projects (.tutelage) stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
