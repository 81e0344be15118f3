"""A checkpoint is resumed from only if every byte of it is what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.errors import MachineError
from training import checkpoints
from training.checkpoints import MARKER, Sealer, inputs_digest, newest_verified, prune, seal


def write_checkpoint(root: Path, step: int, *, job: str | None = "job") -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes([step % 256]) * 5000)
    (folder / "inner" / "state.json").write_text(f'{{"step": {step}}}')
    if job is not None:
        seal(folder, job)
    return folder


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    for step in (5, 10, 9):
        write_checkpoint(tmp_path, step)
    found = newest_verified(tmp_path, "job")
    assert (found.path, found.step, found.skipped) == (tmp_path / "checkpoint-10", 10, ())
    assert newest_verified(tmp_path / "nothing", "job").path is None


def _truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x0a" * 4000)


def _flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[2500] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _lose_a_file(folder: Path) -> None:
    (folder / "inner" / "state.json").unlink()


def _lose_the_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def _break_the_marker(folder: Path) -> None:
    (folder / MARKER).write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, "model.safetensors has 4000 bytes, not 5000"),
        (_flip_a_bit, "model.safetensors differs"),
        (_lose_a_file, "inner/state.json is missing"),
        (_lose_the_marker, "not written to its end"),
        (_break_the_marker, "marker can't be read"),
    ],
)
def test_a_damaged_one_is_skipped_and_named(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    write_checkpoint(tmp_path, 5)
    damage(write_checkpoint(tmp_path, 10))
    found = newest_verified(tmp_path, "job")
    assert found.step == 5
    assert len(found.skipped) == 1
    assert "checkpoint-10" in found.skipped[0]
    assert said in found.skipped[0]


def test_one_of_another_job_is_not_resumed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, job="other")
    found = newest_verified(tmp_path, "job")
    assert found.path is None
    assert "another job" in found.skipped[0]


def test_pruning_keeps_the_newest_sealed_and_all_that_is_newer(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 4, job=None)  # being written
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_the_sealer_seals_in_order_and_prunes(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path, "job")
    for step in (1, 2, 3):
        sealer.submit(write_checkpoint(tmp_path, step, job=None))
    sealer.close()
    assert newest_verified(tmp_path, "job").step == 3
    assert not (tmp_path / "checkpoint-1").exists()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", full)
    sealer = Sealer(tmp_path, "job")
    sealer.submit(write_checkpoint(tmp_path, 1, job=None))
    with pytest.raises(MachineError, match="No space left"):
        sealer.close()


def test_the_inputs_decide_the_digest_not_their_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    first, second = inputs_digest(tmp_path / "one"), inputs_digest(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(b"Weights")
    assert first == second != inputs_digest(tmp_path / "two")
