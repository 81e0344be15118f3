"""The YAML of a task of lm-evaluation-harness, looked at before lm-eval is let near it.

Such a file can name a data set of the Hugging Face hub, which is downloaded, and functions (`!function utils.prompt`),
which are imported and run. Here every file of a task is read without running anything, so that both can be refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_catalog.errors import ConfigError, DataError
from data_catalog.identity import digest, file_sha256

FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Values of `dataset_path` that stand for files of that form, which `dataset_kwargs.data_files` names."""
OUTPUT_TYPES = ("multiple_choice", "generate_until")
ANSWER_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names of the longest answer in tokens, the first that is given counts."""
_GENERATION = {"until", "do_sample", "temperature", "top_p", "top_k", *ANSWER_LENGTHS}
_REFUSED = ("use_prompt", "doc_to_image", "doc_to_audio")
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}


class _Function(str):
    """A `!function` of a YAML file: the name of what lm-eval would import, which we don't."""


class _Reader(yaml.SafeLoader):
    """Reads a task's YAML as lm-eval does, but imports nothing."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> _Function:
    return _Function(node.value)


_Reader.add_constructor("!function", _function)


class TaskFiles(NamedTuple):
    """What a task is made of on disk."""

    name: str
    path: Path
    """Its YAML."""
    config: Mapping[str, Any]
    """The YAML with all that it includes; functions are their names."""
    functions: tuple[str, ...]
    """What lm-eval would import and run."""
    digest: str
    """SHA-256 over the YAML files, and the Python files beside them where the task has functions."""


def find_task(suite: str, directory: Path, name: str) -> TaskFiles:
    """Return the task of this name in a directory of YAML files, its subdirectories included; of none, the only one.

    Raises:
        DataError: there is no such directory, two files give a task this name, or a YAML can't be read.
        ConfigError: no file there has a task of this name.
    """
    if not directory.is_dir():
        raise DataError(
            f"suite `{suite}`: {directory} is no directory",
            valid="the directory of an lm-eval task: its YAML, and the data that it names",
            next_step=f"correct `suites.{suite}.path` in the configuration",
        )
    named: dict[str, list[Path]] = {}
    unread = []
    for path in sorted(directory.rglob("*.yaml")):
        if _IGNORED & set(path.parts):
            continue
        try:
            task = _read(path).get("task")
        except DataError as error:
            unread.append(error)
            continue
        if isinstance(task, str):
            named.setdefault(task, []).append(path)
    if not name and len(named) == 1:
        (name,) = named
    paths = named.get(name, [])
    if not paths and unread:
        raise unread[0]
    if not paths:
        raise ConfigError(
            f"suite `{suite}`: no YAML under {directory} has `task: {name}`"
            if name
            else f"suite `{suite}` names no task, and {directory} has {len(named)}",
            valid=f"one of {', '.join(sorted(named))}" if named else "a *.yaml file with `task:` in it",
            next_step=f"correct `suites.{suite}.scorer.task`, or add the task's YAML there (a group has several "
            "tasks: make a suite of each)",
        )
    if len(paths) > 1:
        raise DataError(
            f"suite `{suite}`: {' and '.join(map(str, paths))} both have `task: {name}`",
            valid="one file for each task",
            next_step="rename one of the tasks",
        )
    return _task_files(name, paths[0])


def _task_files(name: str, path: Path) -> TaskFiles:
    files = list(dict.fromkeys(_with_includes(path, ())))
    config: dict[str, Any] = {}
    for file in reversed(files):
        config |= _read(file)
    functions = tuple(dict.fromkeys(_functions(config)))
    hashed = sorted({file.resolve() for file in files})
    if functions:
        hashed += sorted({code.resolve() for file in files for code in file.parent.rglob("*.py")})
    seen = hashlib.sha256()
    for file in hashed:
        seen.update(hashlib.sha256(file.read_bytes()).digest())
    return TaskFiles(name, path, config, functions, seen.hexdigest())


def _with_includes(path: Path, within: tuple[Path, ...]) -> Iterator[Path]:
    """Yield a YAML and those that it includes, each before what it overrides."""
    if path.resolve() in within:
        raise DataError(
            f"{path} includes itself", valid="`include` of other files", next_step="take one of the `include` out"
        )
    yield path
    includes = _read(path).get("include", [])
    for name in reversed(includes if isinstance(includes, list) else [includes]):
        yield from _with_includes(path.parent / str(name), (*within, path.resolve()))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Reader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} can't be read as the YAML of an lm-eval task: {error}",
            valid="YAML, with no tag but `!function`",
            next_step="correct the file",
        ) from error
    if not isinstance(config, dict):
        raise DataError(
            f"{path} holds no task: a {type(config).__name__}",
            valid="a mapping with `task:` in it",
            next_step="correct the file, or move it elsewhere",
        )
    return config


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, _Function):
        yield str(value)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _functions(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _functions(entry)


def check_task(files: TaskFiles, *, run_code: bool) -> None:
    """Refuse what a task may not do here, and what can't be carried to our models, before anything of it is run.

    Raises:
        ConfigError: it names functions, and nobody said that they may be run.
        DataError: its output type, metrics or way to generate are not carried.
    """
    code = [*files.functions, *(["unsafe_code: true"] if files.config.get("unsafe_code") else [])]
    if code and not run_code:
        raise ConfigError(
            f"task `{files.name}` ({files.path}) runs Python code: {', '.join(code)}",
            valid="a task without `!function`; or `run_code: true` in the suite's scorer, once you have read that code",
            next_step=f"read {files.path.parent}, then allow it or write the task without functions",
        )
    kind = files.config.get("output_type", "generate_until")
    if kind not in OUTPUT_TYPES:
        raise refusal(files, f"`output_type: {kind}`", f"`output_type` {' or '.join(OUTPUT_TYPES)}")
    for field in _REFUSED:
        if files.config.get(field):
            raise refusal(files, f"`{field}`", "prompts from `doc_to_text`")
    if files.config.get("repeats", 1) != 1:
        raise refusal(files, "`repeats`", "one answer for each document")
    _check_generation(files)


def _check_generation(files: TaskFiles) -> None:
    settings = files.config.get("generation_kwargs") or {}
    unknown = sorted(set(settings) - _GENERATION)
    if unknown:
        raise refusal(files, f"`generation_kwargs.{unknown[0]}`", f"one of {', '.join(sorted(_GENERATION))}")
    if settings.get("do_sample") or float(settings.get("temperature", 0)) > 0:
        raise refusal(files, "sampled answers", "greedy ones: `do_sample: false`")


def refusal(files: TaskFiles, what: str, valid: str) -> DataError:
    """Return the error that says what of a task can't be carried."""
    return DataError(
        f"task `{files.name}` ({files.path}) asks for {what}, which is not carried to our models",
        valid=valid,
        next_step="change the task, or run it with `lm_eval` itself",
    )


def local_data(files: TaskFiles) -> dict[str, Any]:
    """Return `dataset_path` and `dataset_kwargs` with the paths that they have on this machine.

    What is relative in the YAML is relative to the YAML's directory; lm-eval by itself takes the working directory.

    Raises:
        DataError: the data set is one of the hub, or a file is not there.
    """
    source, folder = files.config.get("dataset_path"), files.path.parent
    settings = dict(files.config.get("dataset_kwargs") or {})
    if source in FORMATS:
        if not settings.get("data_files"):
            raise DataError(
                f"task `{files.name}` has `dataset_path: {source}` and names no file",
                valid="dataset_kwargs: {data_files: {test: questions.jsonl}}",
                next_step=f"name the files in {files.path}",
            )
        return {"dataset_kwargs": settings | {"data_files": _placed(files, settings["data_files"])}}
    if isinstance(source, str) and (folder / source).is_dir():
        return {"dataset_path": str((folder / source).resolve()), "dataset_kwargs": settings}
    raise DataError(
        f"task `{files.name}` reads {source!r}, which is no directory under {folder}: a data set of the Hugging Face "
        "hub. Nothing is downloaded for a suite",
        valid="`dataset_path: json` (csv, parquet, text, arrow) with `dataset_kwargs.data_files`, or a local directory",
        next_step=f"download it once (hf download {source} --repo-type dataset --local-dir data) and put "
        f"`dataset_path: data` in {files.path}",
    )


def _placed(files: TaskFiles, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _placed(files, entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_placed(files, entry) for entry in value]
    path = files.path.parent / str(value)
    if "://" in str(value) or not any(path.parent.glob(path.name)):
        raise DataError(
            f"task `{files.name}` reads {value}, and there is no file {path}",
            valid=f"files on this machine, relative to {files.path.parent}",
            next_step=f"correct `data_files` in {files.path}",
        )
    return str(path.resolve())


def contents(data: Mapping[str, Any]) -> str:
    """Return a digest of what stands in the files that `local_data` found."""
    named = list(_texts(data.get("dataset_kwargs", {}).get("data_files")))
    files = [file for name in named for file in sorted(Path(name).parent.glob(Path(name).name))]
    if "dataset_path" in data:
        files += sorted(file for file in Path(data["dataset_path"]).rglob("*") if file.is_file())
    return digest([file_sha256(file) for file in files])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)
