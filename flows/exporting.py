"""`tutelage export`: a registered model in the form that another program reads, whole or not at all.

Each export has `tutelage-export.json` in it: the version, the SHA-256 of every file and of the chat template. A model
that answers under another template than the one it was gated with is another model, so the template goes along.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, MachineError, MissingDependency, RegistryError
from data_catalog.identity import file_sha256
from data_catalog.model_files import first_difference
from data_catalog.records import ModelVersion
from data_catalog.registry import Registry
from flows.model_steps import stage_directory
from flows.processes import ManagedProcess
from training.compatibility import ADAPTED_TYPE
from training.environment import worker_environment

RECORD = "tutelage-export.json"
TEMPLATE = "chat_template.jinja"
CONVERTER = "convert_hf_to_gguf.py"
_METADATA_BYTES = 256 << 20
"""More than any GGUF's metadata take; the vocabulary is the most of them."""
_SERVER = "python -m vllm.entrypoints.openai.api_server"
_LORA_METHODS = frozenset({"lora", "qlora"})


class Format(StrEnum):
    """What other programs read."""

    HF = "hf"
    """Merged safetensors with tokenizer and chat template: transformers, vLLM, TGI, SGLang."""
    LORA = "lora"
    """The adapter alone, beside a named base: vLLM's --lora-modules, PEFT."""
    MODELFILE = "modelfile"
    """An Ollama Modelfile and the merged safetensors that it names."""
    GGUF = "gguf"
    """One file for llama.cpp, Ollama and LM Studio, by llama.cpp's own converter."""
    MLFLOW = "mlflow"
    """A directory that MLflow's clients load, as MLflow itself writes it."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what may be said about it."""

    model: str
    format: str
    path: Path
    chat_template_sha256: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A verified version and where it is kept."""

    catalogue: Catalogue
    version: ModelVersion
    directory: Path


def export_model(home: Path, name: str, target: Path, kind: Format, *, converter: Path | None = None) -> Exported:
    """Write the version that `name` (id, beginning of one, or stage) means to the new directory `target`.

    Raises:
        RegistryError: there is no such version, it is altered, or its form does not go with the format.
        ConfigError: `target` is in use.
        TrainingError: base and adapters do not make the registered weights, or the chat template can't be expressed.
        MissingDependency: the GGUF converter, or MLflow, is not installed.
        MachineError: the disk is full, or the converter failed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{target} is in use", valid="a new or an empty directory", next_step="name another with --to"
        )
    catalogue = Catalogue(home)
    registry = Registry(catalogue)
    version = registry.verify(registry.resolve(name).id)
    source = _Source(catalogue, version, home / version.path)
    _refuse_adapted(source)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        notes = _WRITERS[kind](source, partial, converter)
        template = _take_template(source, partial)
        _write_record(source, kind, partial, template)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise MachineError(
            f"{target} can't be written: {error.strerror or error}",
            valid=f"free space for {sum(size for _, size, _ in version.manifest):,} bytes; nothing was written",
            next_step=f"check disk space and permissions (df -h {target.parent})",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    told = tuple(note.replace(str(partial), str(target)) for note in notes)
    return Exported(version.id, kind.value, target, template and sha256(template.encode()).hexdigest(), told)


def chat_template(model: Path) -> str | None:
    """Return a model directory's chat template, where it has one."""
    if (model / TEMPLATE).is_file():
        return (model / TEMPLATE).read_text(encoding="utf-8")
    config = model / "tokenizer_config.json"
    given = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return given if isinstance(given, str) else None


def _refuse_adapted(source: _Source) -> None:
    config = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") == ADAPTED_TYPE:
        method = config["method"]["name"]
        raise RegistryError(
            f"{source.version.id} keeps a {method} beside its base, which no other program opens as one model",
            valid="a model whose method merges: full, lora, qlora, ia3",
            next_step="serve it here (tutelage serve-model), or train the stage with a method that merges",
        )


# The formats -------------------------------------------------------------------------------------------------------


def _write_hf(source: _Source, target: Path, converter: Path | None) -> list[str]:
    for name, _, _ in source.version.manifest:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.directory / name, target / name)
    difference = first_difference(target, source.version.manifest)
    if difference is not None:
        raise MachineError(f"the copy differs from the registered model: {difference}", next_step="export it again")
    return [f"{_SERVER} --model {target} --served-model-name {source.version.id}"]


def _write_lora(source: _Source, target: Path, converter: Path | None) -> list[str]:
    from training.lora_export import export_lora

    adapters, base, base_name = _lora_chain(source)
    rank = export_lora(adapters, base, base_name, source.directory, target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, target / name)
    ranks = next((given for given in (8, 16, 32, 64, 128, 256, 320, 512) if given >= rank), rank)
    return [
        f"{len(adapters)} stage{'s' * (len(adapters) != 1)}, rank {rank}, base {base_name}",
        f"{_SERVER} --model {base_name} --enable-lora --max-lora-rank {ranks} "
        f"--lora-modules {source.version.id}={target}",
    ]


def _lora_chain(source: _Source) -> tuple[list[Path], Path, str]:
    """Return the adapters of the last stages as far back as they are LoRA, and the model that they stand on."""
    lineage = source.version.lineage
    adapters: list[Path] = []
    for stage in reversed(lineage.get("stages") or []):
        folder, method = _stage_folder(source, stage)
        if method not in _LORA_METHODS:
            if not adapters:
                raise RegistryError(
                    f"the last stage of {source.version.id} (`{stage.get('name')}`) was trained with "
                    f"{method or 'a method that is not on record'}",
                    valid="a last stage with method lora or qlora",
                    next_step="export the merged model: --format hf",
                )
            return adapters, _kept(folder / "model", "the model that the LoRA stages stand on"), str(folder / "model")
        adapters.insert(0, _kept(folder / "work" / "adapter", f"the adapter of stage `{stage.get('name')}`"))
    if not adapters:
        raise RegistryError(
            f"{source.version.id} has no training stages on record", next_step="export the merged model: --format hf"
        )
    base = Path(str(lineage.get("base_path") or ""))
    return adapters, _kept(base, "the base model"), str(base)


def _stage_folder(source: _Source, stage: Mapping[str, Any]) -> tuple[Path, str]:
    run = source.catalogue.step_run(str(stage.get("run_id")))
    if run is None:
        return Path(), ""
    method = str(run.result.get("train", {}).get("method", ""))
    return stage_directory(source.catalogue.home, run.step, run.fingerprint), method


def _kept(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise RegistryError(
            f"{what} is not at {path} any more",
            valid="the run's folder as it was left",
            next_step="run the project again (tutelage run CONFIG), or export the merged model: --format hf",
        )
    return path


def _write_modelfile(source: _Source, target: Path, converter: Path | None) -> list[str]:
    from training.chat_format import modelfile

    (target / "model").mkdir()
    _write_hf(source, target / "model", None)
    comment = [f"{source.version.id}, exported by Tutelage"]
    if template := chat_template(source.directory):
        comment.append(f"said in Go what {TEMPLATE} (SHA-256 {sha256(template.encode()).hexdigest()}) says in Jinja")
    (target / "Modelfile").write_text(modelfile(source.directory, "./model", comment=comment), encoding="utf-8")
    return [f"cd {target} && ollama create {source.version.id} -f Modelfile"]


def _write_gguf(source: _Source, target: Path, converter: Path | None) -> list[str]:
    script = find_converter(converter)
    output = target / "model.gguf"
    argv = [sys.executable, str(script), str(source.directory), "--outfile", str(output), "--outtype", "auto"]
    log = source.catalogue.home / "logs" / "export-gguf.log"
    with ManagedProcess(argv, home=source.catalogue.home, log=log, env=worker_environment()) as process:
        status = process.wait()
        told = process.log_tail()
    if status != 0 or not output.is_file() or not _beginning(output).startswith(b"GGUF"):
        raise MachineError(
            f"{script} ended with status {status} and left no GGUF file:\n{told}",
            valid="a model of an architecture that llama.cpp knows",
            next_step=f"look into {log}; a newer llama.cpp may know the model",
        )
    template = chat_template(source.directory)
    if template is not None and template.encode() not in _beginning(output):
        raise MachineError(
            f"{script} left the chat template out of the GGUF file: llama.cpp would guess one",
            next_step="use a newer converter, or --format hf",
        )
    return [f"llama-server -m {output} --jinja"]


def _beginning(gguf: Path) -> bytes:
    """Return what stands before the weights, and some of them: the metadata come first."""
    with gguf.open("rb") as stream:
        return stream.read(_METADATA_BYTES)


def find_converter(given: Path | None) -> Path:
    """Return llama.cpp's converter: as given, from LLAMA_CPP_DIR, or from PATH.

    Raises:
        MissingDependency: it is in none of these places.
    """
    home, on_path = os.environ.get("LLAMA_CPP_DIR"), shutil.which(CONVERTER)
    places = [given] if given else [Path(place) for place in (home and f"{home}/{CONVERTER}", on_path) if place]
    for place in places:
        if place.is_file():
            return place
    searched = f"LLAMA_CPP_DIR ({home or 'not set'}) and PATH have no {CONVERTER}"
    got = f"there is no {given}" if given else searched
    raise MissingDependency(
        f"GGUF needs llama.cpp's converter: {got}",
        next_step="git clone https://github.com/ggml-org/llama.cpp && pip install gguf && "
        "export LLAMA_CPP_DIR=$PWD/llama.cpp",
    )


def _write_mlflow(source: _Source, target: Path, converter: Path | None) -> list[str]:
    from training.mlflow_export import save_mlflow

    template = chat_template(source.directory)
    metadata = {
        "tutelage_model": source.version.id,
        "base": source.version.lineage.get("base"),
        "chat_template_sha256": template and sha256(template.encode()).hexdigest(),
    }
    save_mlflow(source.directory, target, name=source.version.id, metadata=metadata)
    return [f'mlflow.pyfunc.load_model("{target}").predict({{"messages": [...]}})']


_WRITERS: dict[Format, Callable[[_Source, Path, Path | None], list[str]]] = {
    Format.HF: _write_hf,
    Format.LORA: _write_lora,
    Format.MODELFILE: _write_modelfile,
    Format.GGUF: _write_gguf,
    Format.MLFLOW: _write_mlflow,
}


def _take_template(source: _Source, target: Path) -> str | None:
    """Put the chat template beside what was written, where it is not there by itself."""
    template = chat_template(source.directory)
    if template is not None and not (target / TEMPLATE).exists():
        (target / TEMPLATE).write_text(template, encoding="utf-8")
    return template


def _write_record(source: _Source, kind: Format, target: Path, template: str | None) -> None:
    files = {
        path.relative_to(target).as_posix(): file_sha256(path) for path in sorted(target.rglob("*")) if path.is_file()
    }
    record = {
        "model": source.version.id,
        "format": kind.value,
        "base": source.version.lineage.get("base"),
        "licence": source.version.lineage.get("licence"),
        "chat_template_sha256": template and sha256(template.encode()).hexdigest(),
        "files": files,
    }
    (target / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
