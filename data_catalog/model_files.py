"""A model directory as bytes: its manifest, what may be in it, and how it is taken in and verified.

No pickle and no code from a model directory is ever run; what could carry either is refused by name.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import MachineError, RegistryError
from data_catalog.files import sync
from data_catalog.identity import file_sha256, make_id

Manifest = tuple[tuple[str, int, str], ...]
"""Sorted (path, bytes, SHA-256)."""

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
_CODE = frozenset({".py", ".pyc", ".so"})
_MODEL_CARD = "README.md"
_INCOMING = ".incoming-"
_REMOVED = ".removed-"


def model_manifest(directory: Path) -> Manifest:
    """Return the manifest of a model directory.

    Raises:
        RegistryError: it is no model directory, or has a link, a pickle or code in it.
    """
    files = _files(directory)
    return tuple((name, path.stat().st_size, file_sha256(path)) for name, path in sorted(files.items()))


def gated_id(manifest: Sequence[tuple[str, int, str]]) -> str:
    """Return the id under which a gate knows a model: its bytes but for the model card.

    The card tells what the gate found, so it is written after the gate; all that makes the model answer is included.
    """
    return make_id("candidate", [list(entry) for entry in sorted(manifest) if entry[0] != _MODEL_CARD])


def candidate_id(directory: Path) -> str:
    """Return what a gate on the model in `directory` records as its candidate."""
    return gated_id(model_manifest(directory))


def take_in(source: Path, manifest: Manifest, target: Path) -> None:
    """Copy a model directory to `target`: whole, durable and read-only, or not at all.

    A damaged directory that has the name already is moved aside, not deleted.

    Raises:
        RegistryError: the source is no longer what `manifest` says.
        MachineError: the disk is full.
    """
    models_dir = target.parent
    _remove_abandoned(models_dir)
    staging = models_dir / f"{_INCOMING}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        _copy(source, manifest, staging)
        difference = first_difference(staging, manifest)
        if difference is not None:
            raise RegistryError(
                f"{source} changed while it was copied: {difference}",
                valid="a directory that nobody writes to",
                next_step="register it again when its writer is done",
            )
        _put_in_place(staging, target)
    except OSError as error:
        raise MachineError(
            f"{source} can't be copied to {models_dir}: {error.strerror or error}",
            valid=f"free space for {sum(size for _, size, _ in manifest):,} bytes; nothing was registered",
            next_step=f"check disk space and permissions (df -h {models_dir}), then run the same command",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(source: Path, manifest: Manifest, staging: Path) -> None:
    for name, _, _ in manifest:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
        sync(target)
        target.chmod(0o444)
    for directory in _directories(staging):
        sync(directory)


def _put_in_place(staging: Path, target: Path) -> None:
    if target.exists():
        target.rename(target.with_name(f".damaged-{target.name}-{uuid.uuid4().hex[:8]}"))
    staging.rename(target)
    for directory in _directories(target):
        directory.chmod(0o555)
    sync(target.parent)


def remove_directory(directory: Path) -> None:
    """Delete a read-only model directory: it loses its name first, so that a kill leaves no half model under it."""
    doomed = directory.with_name(f"{_REMOVED}{directory.name}")
    if directory.exists():
        directory.rename(doomed)
        sync(doomed.parent)
    for abandoned in directory.parent.glob(f"{_REMOVED}*"):
        for entry in _directories(abandoned):
            entry.chmod(0o755)
        shutil.rmtree(abandoned)


def _directories(top: Path) -> list[Path]:
    return [top, *(path for path in top.rglob("*") if path.is_dir())]


def first_difference(directory: Path, manifest: Manifest) -> str | None:
    """Return what is first found to differ from the manifest, or None; sizes are looked at before bytes are read."""
    if not directory.is_dir():
        return f"the directory {directory} is missing"
    present = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if not path.is_dir()}
    expected = {name for name, _, _ in manifest}
    for name in sorted(present.keys() - expected):
        return f"{name} was added"
    for name, size, _ in manifest:
        if name not in present:
            return f"{name} is missing"
        if present[name].is_symlink():
            return f"{name} was replaced by a link"
        if (actual := present[name].stat().st_size) != size:
            return f"{name} has {actual} bytes, not {size}"
    for name, _, sha256 in manifest:
        if (digest := file_sha256(present[name])) != sha256:
            return f"{name} has SHA-256 {digest[:12]}, not {sha256[:12]}"
    return None


def _files(directory: Path) -> dict[str, Path]:
    """Return every file by its path inside `directory`, or refuse the directory."""
    if not directory.is_dir():
        raise RegistryError(f"no model directory at {directory}", valid="a directory with safetensors and config.json")
    files: dict[str, Path] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise _refused(directory, name, "is a link; what it points to could change")
        if path.is_dir():
            continue
        if not path.is_file():
            raise _refused(directory, name, "is no regular file")
        _check_file(directory, name, path)
        files[name] = path
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise RegistryError(
            f"{directory} is no model directory: it holds {', '.join(files) or 'nothing'}",
            valid="config.json and at least one .safetensors file",
        )
    return files


def _check_file(directory: Path, name: str, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise _refused(directory, name, "may be a pickle, which runs code when it is loaded")
    if suffix in _CODE:
        raise _refused(directory, name, "is code")
    if suffix == ".safetensors":
        _check_safetensors(directory, name, path)
    if suffix == ".json" and _mentions_auto_map(directory, name, path):
        raise _refused(directory, name, "has an `auto_map`, which asks for code from the model directory")


def _mentions_auto_map(directory: Path, name: str, path: Path) -> bool:
    # A tokenizer's vocabulary may hold the word; only a key at the top of a configuration names code.
    if not path.name.endswith("config.json"):
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(directory, name, f"is not JSON ({error})") from error
    return isinstance(content, dict) and "auto_map" in content


def _check_safetensors(directory: Path, name: str, path: Path) -> None:
    """Compare the file's size with its header: eight bytes of length, JSON, then exactly the tensors' bytes.

    Source: https://github.com/huggingface/safetensors, section Format.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise _refused(directory, name, "is no safetensors file")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise _refused(directory, name, "has no readable safetensors header") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _refused(directory, name, f"has {size} bytes where its header says {expected}: it is cut off or grown")


def _refused(directory: Path, name: str, why: str) -> RegistryError:
    return RegistryError(
        f"{directory / name} {why}",
        valid="regular files with weights as .safetensors, and configurations without `auto_map`",
        next_step="save the model with safe_serialization and without custom code, then register that directory",
    )


def _remove_abandoned(models_dir: Path) -> None:
    """Remove staging directories whose process is gone."""
    for staging in models_dir.glob(f"{_INCOMING}*"):
        pid = int(staging.name.removeprefix(_INCOMING).partition("-")[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(staging, ignore_errors=True)
        except PermissionError:
            continue
