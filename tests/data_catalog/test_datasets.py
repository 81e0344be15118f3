"""Dataset versions: named after what they hold, the same bytes every time, and never read damaged."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import (
    dataset_item_ids,
    get_dataset,
    list_datasets,
    read_dataset,
    read_rows,
    write_dataset,
)
from data_catalog.errors import DataError, MachineError
from data_catalog.records import DatasetVersion, Kind, Split
from tests.data_catalog.small_world import chunk, document, item

Open = Callable[[Path], Catalogue]
_CHUNK = chunk(document("a.md"))
_ITEMS = [item(f"text {number} \ud800 文", of=_CHUNK) for number in range(40)]


def written(catalogue: Catalogue) -> tuple[DatasetVersion, Path]:
    version = write_dataset(catalogue, "sft", Kind.TEXT, _ITEMS)
    return version, catalogue.home / version.path


def test_rows_come_back_by_id(catalogue: Catalogue) -> None:
    version, path = written(catalogue)
    expected = sorted(_ITEMS, key=lambda one: one.id)
    assert read_rows(path) == [{"id": one.id, "payload": one.payload} for one in expected]
    first = read_dataset(path).to_pylist()[0]
    assert (first["recipe"], first["document_id"], first["chunk_id"]) == (
        "grounded_qa@1",
        _CHUNK.document_id,
        _CHUNK.id,
    )
    assert dataset_item_ids(catalogue, version.id) == [one.id for one in expected]
    assert version.rows == len(_ITEMS)


def test_the_same_items_are_the_same_version_and_the_same_bytes(tmp_path: Path, open_catalogue: Open) -> None:
    versions = []
    for seed in range(3):
        catalogue = open_catalogue(tmp_path / f"home {seed}")
        shuffled = random.Random(seed).sample(_ITEMS, len(_ITEMS)) + _ITEMS[:seed]
        versions.append(write_dataset(catalogue, "sft", Kind.TEXT, shuffled))
    assert versions[0] == versions[1] == versions[2]
    other = write_dataset(open_catalogue(tmp_path / "home 0"), "sft", Kind.TEXT, _ITEMS[1:])
    assert other.id != versions[0].id


def test_writing_again_changes_nothing(catalogue: Catalogue) -> None:
    version, path = written(catalogue)
    before = path.stat().st_mtime_ns
    assert written(catalogue)[0] == version
    assert path.stat().st_mtime_ns == before
    assert list_datasets(catalogue) == [version]
    assert len(dataset_item_ids(catalogue, version.id)) == len(_ITEMS)


def test_a_version_may_have_several_names(tmp_path: Path) -> None:
    times = iter(range(1000))
    catalogue = Catalogue(tmp_path, clock=lambda: float(next(times)))
    first = write_dataset(catalogue, "sft", Kind.TEXT, _ITEMS)
    second = write_dataset(catalogue, "sft-again", Kind.TEXT, _ITEMS)
    assert first.id == second.id
    assert [one.name for one in list_datasets(catalogue)] == ["sft-again", "sft"]
    assert get_dataset(catalogue, first.id) == second
    assert get_dataset(catalogue, "dataset-none") is None


def test_what_does_not_belong_in_a_dataset_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(DataError, match="no rows"):
        write_dataset(catalogue, "sft", Kind.TEXT, [])
    with pytest.raises(DataError, match="is of kind `text`"):
        write_dataset(catalogue, "dpo", Kind.PREFERENCE, _ITEMS)
    with pytest.raises(DataError, match="`evaluation` side"):
        write_dataset(catalogue, "sft", Kind.TEXT, [*_ITEMS, item("held out", split=Split.EVALUATION)])
    assert list_datasets(catalogue) == []
    assert list(catalogue.datasets_dir.iterdir()) == []


def test_every_flipped_bit_is_noticed(catalogue: Catalogue) -> None:
    version, path = written(catalogue)
    whole = path.read_bytes()
    rng = random.Random(5)
    for place in rng.sample(range(len(whole)), 200):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DataError, match="is damaged"):
            read_rows(path)
        with pytest.raises(DataError, match="is damaged"):
            read_rows(path, version.sha256)
    path.write_bytes(whole)
    assert len(read_rows(path)) == len(_ITEMS)


def test_without_its_digest_a_flipped_bit_still_never_changes_a_row(catalogue: Catalogue) -> None:
    _, path = written(catalogue)
    rows, whole = read_rows(path), path.read_bytes()
    path.with_suffix(".sha256").unlink()
    rng = random.Random(6)
    noticed = 0
    for place in rng.sample(range(len(whole)), 200):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read_rows(path) == rows
        except DataError:
            noticed += 1
    assert noticed > 50


def test_a_cut_off_or_missing_file_is_told(catalogue: Catalogue) -> None:
    _, path = written(catalogue)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged"):
        read_rows(path)
    path.unlink()
    with pytest.raises(DataError, match="no dataset at"):
        read_rows(path)


def test_a_damaged_file_is_written_again_from_the_same_items(catalogue: Catalogue) -> None:
    version, path = written(catalogue)
    path.write_bytes(b"PAR1 and then nothing")
    assert written(catalogue)[0] == version
    assert len(read_rows(path)) == len(_ITEMS)


def test_the_digest_file_is_what_sha256sum_reads(catalogue: Catalogue) -> None:
    _, path = written(catalogue)
    subprocess.run(["sha256sum", "--check", "--strict", path.with_suffix(".sha256").name], cwd=path.parent, check=True)


def test_pages_carry_checksums(catalogue: Catalogue) -> None:
    _, path = written(catalogue)
    assert pq.read_table(path, page_checksum_verification=True).num_rows == len(_ITEMS)
    path.with_suffix(".sha256").unlink()
    data = bytearray(path.read_bytes())
    payload = pq.ParquetFile(path).metadata.row_group(0).column(1)
    # The last byte of a column chunk is the end of its last page.
    start = min(filter(None, [payload.dictionary_page_offset, payload.data_page_offset]))
    data[start + payload.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"CRC|checksum"):
        read_rows(path)


def test_a_place_that_cannot_be_written_is_a_machine_error(catalogue: Catalogue) -> None:
    catalogue.datasets_dir.rmdir()
    catalogue.datasets_dir.write_text("in the way")
    with pytest.raises(MachineError, match="can't be written"):
        written(catalogue)
    assert list_datasets(catalogue) == []
