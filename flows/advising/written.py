"""An advice as a configuration file: complete but for what only the user knows, which is marked PLACEHOLDER."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_catalog.errors import ConfigError, MachineError
from data_catalog.files import write_durably
from flows.advising.given import chunk_tokens_for
from flows.advising.planning import Advice
from flows.advising.words import comments, flow
from generators.specs import DocumentsSpec

PLACEHOLDER_DOCUMENTS = "docs"
PLACEHOLDER_TEACHER = "my-teacher"
PLACEHOLDER_URL = "http://127.0.0.1:8000/v1"


def configuration(advice: Advice, folder: Path, teacher: str | None) -> str:
    """Return the text of a configuration file in `folder`, every setting with its reason."""
    return "\n".join([*_head(advice, folder, teacher), *stages_section(advice)]) + "\n"


def _head(advice: Advice, folder: Path, teacher: str | None) -> Iterator[str]:
    yield f"# Written by `tutelage advise` for the goal {advice.goal}. Every key: docs/configuration.md."
    yield from (f"# {' '.join(line.split())}" for line in (advice.student.line, f"Machine {advice.machine.line}"))
    yield f"project: {_name(folder)}"
    yield "documents:"
    if advice.data.documents is None:
        yield "  # PLACEHOLDER: the files and folders that the teacher writes from."
        yield f"  paths: [{PLACEHOLDER_DOCUMENTS}]"
    else:
        yield f"  paths: {flow([str(advice.data.documents.resolve())])}"
    chunk = chunk_tokens_for(advice.longest)
    if chunk != DocumentsSpec.model_fields["chunk_tokens"].default:
        yield f"  # Half of the shortest max_length below ({advice.longest}), so that a chunk fits with its headings."
        yield f"  chunk_tokens: {chunk}"
    if teacher is None:
        yield "# PLACEHOLDER: a model directory that a vLLM of our own serves (`model` alone), or any OpenAI-compatible"
        yield "# endpoint and what it calls its model."
        yield f'teacher: {{model: {PLACEHOLDER_TEACHER}, base_url: "{PLACEHOLDER_URL}"}}'
    else:
        served = str(Path(teacher).resolve()) if Path(teacher).is_dir() else teacher
        yield f"teacher: {flow({'model': served})}"
    yield f"student: {flow({'model': str(advice.student.path.resolve())})}"
    if advice.replay is not None:
        yield f"replay: {flow(str(advice.replay.resolve()))}"
    yield "# PLACEHOLDER: without a suite and a gate nothing says that a stage has taught what it should. A file of"
    yield '# {"question": "...", "answers": ["..."]}, one a line, and behind each stage a `gate` on it:'
    yield "# suites:"
    yield "#   gold: {path: gold.jsonl}"
    yield "#     gate: [{suite: gold, require: better, margin: 0.05}]"


def stages_section(advice: Advice) -> Iterator[str]:
    """Yield the section `stages`."""
    yield "stages:"
    for stage in advice.stages:
        yield f"  - name: {stage.name}"
        yield "    train:"
        for choice in stage.choices:
            yield from comments(choice, " " * 6)
        if stage.data:
            yield "    data:"
        for choice in stage.data:
            yield from comments(choice, " " * 6)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no file may be written, before anything is counted.

    Raises:
        ConfigError: there is a file and `overwrite` is not set, or its folder is not there.
    """
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} is there already; nothing was written",
            valid="a new file",
            next_step="name another one, or say --overwrite",
        )
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {path.parent} to write {path.name} into", next_step=f"mkdir -p {path.parent}")


def write(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a configuration, whole or not at all.

    Raises:
        ConfigError: as `check_target`.
        MachineError: it can't be written.
    """
    check_target(path, overwrite=overwrite)
    try:
        write_durably(path, text.encode())
    except OSError as error:
        raise MachineError(
            f"{path} can't be written: {error}", next_step="make its folder writable, or name another file"
        ) from error


def _name(folder: Path) -> str:
    """Return the name of a project kept in `folder`."""
    return re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_") or "project"
