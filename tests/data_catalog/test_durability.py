"""Several processes, kills, torn logs, full disks, flipped bits: nothing acknowledged is lost, and damage is told."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

import duckdb
import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import CatalogueBusy, CatalogueCorrupt, CatalogueError, Interrupted, MachineError
from tests.data_catalog.small_world import completion, request

Open = Callable[[Path], Catalogue]
_ROOT = Path(__file__).parents[2]


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def writer(home: Path, name: str, batches: int, size: int, *more: str) -> subprocess.Popen[str]:
    return start("-m", "tests.data_catalog.writer", str(home), name, str(batches), str(size), *more)


@contextmanager
def holder(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run `code`, which prints `held` once it holds something, until the block ends."""
    with start("-c", code) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def held_by_another_process(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Let another process have a DuckDB file open for writing."""
    return holder(
        f"import duckdb, sys; con = duckdb.connect({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    )


def acknowledged(output: str) -> list[str]:
    """The keys of every line that the writer finished."""
    lines = output.splitlines(keepends=True)
    return [key for line in lines if line.endswith("\n") and line != "ready\n" for key in line.split()]


def store(catalogue: Catalogue, name: str, count: int = 1) -> list[str]:
    asked = [request(f"{name} {number}") for number in range(count)]
    catalogue.add_completions(asked, [completion(one, one.key * 4) for one in asked])
    return [one.key for one in asked]


def assert_all_there(catalogue: Catalogue, keys: list[str]) -> None:
    found = catalogue.answered(keys)
    assert [key for key in keys if key not in found] == []
    assert all(answer.text == key * 4 for key, answer in found.items())


# Several processes and threads


@pytest.mark.slow
def test_processes_write_at_the_same_time_while_others_read(catalogue: Catalogue) -> None:
    writers = [writer(catalogue.home, f"writer {number}", 8, 20) for number in range(4)]
    reads = 0
    while any(process.poll() is None for process in writers):
        assert len(catalogue.documents()) == 0
        reads += 1
    results = [process.communicate() for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0, 0], [err for _, err in results]
    keys = [key for output, _ in results for key in acknowledged(output)]
    assert len(keys) == 4 * 8 * 20
    assert_all_there(catalogue, keys)
    assert reads > 0


def test_threads_of_one_process_take_turns(catalogue: Catalogue) -> None:
    other = Catalogue(catalogue.home)
    keys: list[str] = []

    def work(mine: Catalogue, name: str) -> None:
        for number in range(3):
            keys.extend(store(mine, f"{name} {number}"))
            mine.documents()

    threads = [threading.Thread(target=work, args=(one, f"t{n}")) for n, one in enumerate([catalogue, other] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 12
    assert_all_there(catalogue, keys)


def test_a_catalogue_that_another_program_holds_is_busy_and_says_who(catalogue: Catalogue) -> None:
    impatient = Catalogue(catalogue.home, wait=0.1)
    with held_by_another_process(catalogue.path) as other:
        for use in (impatient.documents, lambda: store(impatient, "late")):
            with pytest.raises(CatalogueBusy, match=rf"process {other.pid}\b") as busy:
                use()
            assert "run the same command" in busy.value.next_step
    assert impatient.documents() == []


def test_a_reader_waits_for_a_writer_to_finish(catalogue: Catalogue) -> None:
    with held_by_another_process(catalogue.path) as other:
        timer = threading.Timer(0.2, other.kill)
        timer.start()
        assert catalogue.documents() == []
        timer.join()


def test_a_writer_that_waits_in_vain_names_the_one_who_writes(catalogue: Catalogue) -> None:
    impatient = Catalogue(catalogue.home, wait=0.1)
    lock = catalogue.home / "catalogue.lock"
    code = f"""
import sys
from pathlib import Path
from data_catalog.locks import hold
with hold(Path({str(lock)!r}), "tutelage refresh", wait=0):
    print("held", flush=True)
    sys.stdin.read()
"""
    with holder(code) as other:
        with pytest.raises(CatalogueBusy, match=rf"process {other.pid} \(`tutelage refresh`, since 20") as busy:
            store(impatient, "late")
        assert f"kill {other.pid}" in busy.value.next_step
    # The operating system has released the lock of the dead: nothing has to be cleaned up.
    store(impatient, "now")


# One run at a time


def test_a_second_run_is_refused_and_told_of_the_first(catalogue: Catalogue) -> None:
    with catalogue.run_lock("tutelage run shop.yaml"):
        other = Catalogue(catalogue.home)
        with pytest.raises(CatalogueBusy) as busy, other.run_lock("tutelage run again.yaml"):
            pytest.fail("two runs at once")
        assert f"process {os.getpid()} (`tutelage run shop.yaml`, since 20" in busy.value.message
        assert f"kill {os.getpid()}" in busy.value.next_step
    with catalogue.run_lock("tutelage run again.yaml"):
        pass


def test_a_run_lock_ends_with_its_process(catalogue: Catalogue) -> None:
    killed = start(
        "-c",
        f"""
import os, signal
from pathlib import Path
from data_catalog.catalogue import Catalogue
with Catalogue(Path({str(catalogue.home)!r})).run_lock("tutelage run"):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    with catalogue.run_lock("tutelage run"):
        pass


def test_an_error_inside_a_run_releases_it(catalogue: Catalogue) -> None:
    with pytest.raises(ZeroDivisionError), catalogue.run_lock("tutelage run"):
        _ = 1 / 0
    with catalogue.run_lock("tutelage run"):
        pass


# Kills and torn logs


@pytest.mark.slow
def test_no_acknowledged_row_is_lost_to_ten_kills(catalogue: Catalogue) -> None:
    rng = random.Random(20)
    keys: list[str] = []
    for life in range(10):
        process = writer(catalogue.home, f"life {life}", 10_000, 50)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        output, _ = process.communicate()
        keys += acknowledged(first + output)
        assert_all_there(catalogue, keys)
    assert len(keys) >= 10 * 50
    keys += store(catalogue, "afterwards")
    assert_all_there(catalogue, keys)


def test_a_killed_creation_leaves_no_half_catalogue(tmp_path: Path) -> None:
    (tmp_path / "catalogue.new").write_bytes(b"half of one")
    (tmp_path / "catalogue.new.wal").write_bytes(b"and its log")
    assert_all_there(catalogue := Catalogue(tmp_path), store(catalogue, "first"))
    assert not (tmp_path / "catalogue.new").exists()


@pytest.fixture
def interrupted(catalogue: Catalogue, tmp_path: Path) -> tuple[Path, list[str]]:
    """A home as a kill between commit and checkpoint leaves it: a file, and a log with a write nobody was told of."""
    keys = store(catalogue, "acknowledged", 5)
    home = tmp_path / "interrupted"
    home.mkdir()
    with duckdb.connect(str(catalogue.path)) as con:
        con.execute("INSERT INTO refusals SELECT 'cut off ' || n, repeat('why ', 20), 0 FROM range(3000) AS r (n)")
        for path in (catalogue.path, catalogue.path.with_name("catalogue.duckdb.wal")):
            shutil.copy(path, home)
    return home, keys


def test_a_whole_log_is_replayed(interrupted: tuple[Path, list[str]]) -> None:
    home, keys = interrupted
    catalogue = Catalogue(home)
    assert_all_there(catalogue, keys)
    assert len(catalogue.refusals()) == 3000
    assert_all_there(catalogue, store(catalogue, "next"))
    assert not (home / "catalogue.duckdb.wal").exists()


@pytest.mark.parametrize("how", ["cut off", "one bit flipped", "overwritten"])
def test_a_torn_log_costs_only_the_write_that_nobody_was_told_of(
    interrupted: tuple[Path, list[str]], tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, keys = interrupted
    rng = random.Random(how)
    whole = (source / "catalogue.duckdb.wal").read_bytes()
    for attempt in range(4):
        home = tmp_path / f"{attempt}"
        shutil.copytree(source, home)
        torn = bytearray(whole)
        place = rng.randrange(100, len(torn))
        if how == "cut off":
            del torn[place:]
        elif how == "one bit flipped":
            torn[place] ^= 1 << rng.randrange(8)
        else:
            torn[place : place + 64] = rng.randbytes(64)
        (home / "catalogue.duckdb.wal").write_bytes(torn)
        catalogue = Catalogue(home)
        assert_all_there(catalogue, keys)
        assert len(catalogue.refusals()) in (0, 3000)
        assert_all_there(catalogue, [*keys, *store(catalogue, "next")])
        if not catalogue.refusals():
            assert [path.read_bytes() for path in home.glob("*.torn-*")] == [bytes(torn)]
            assert "as it was before that write" in caplog.text


# Full disks


def test_a_full_disk_is_told_and_costs_nothing_that_was_acknowledged(catalogue: Catalogue) -> None:
    keys = store(catalogue, "before")
    limit = catalogue.path.stat().st_size + 300_000
    process = writer(catalogue.home, "filling", 100, 2000, str(limit))
    output, errors = process.communicate()
    assert process.returncode == MachineError.exit_code, errors
    assert "MachineError the disk of" in errors
    assert "df -h" in errors
    keys += acknowledged(output)
    assert_all_there(catalogue, keys)
    assert_all_there(catalogue, store(catalogue, "after"))


# Damage


def write_long(catalogue: Catalogue) -> None:
    """Write for seconds, in many short tasks: DuckDB looks for signals between them."""
    with catalogue.store.writing() as con:
        con.execute("CREATE TABLE half AS SELECT 1")
        con.execute(
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 1_000_000) SELECT max(n) FROM t"
        )


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), Interrupted("stopped by SIGTERM", next_step="run it again")])
def test_a_signal_during_a_query_is_told_as_one_and_leaves_nothing_half(
    catalogue: Catalogue, raised: BaseException
) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise raised

    previous = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Interrupted, match="what was done is kept"):
            write_long(catalogue)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)
    with catalogue.store.reading() as con:
        assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").fetchone() == (0,)


def test_a_file_that_is_no_database_is_corrupt_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.duckdb"
    path.write_bytes(b"These are not the bytes of a database." * 500)
    before = path.read_bytes()
    with pytest.raises(CatalogueCorrupt, match="not a valid DuckDB database file") as corrupt:
        Catalogue(tmp_path)
    assert f"mv {path} {path}.damaged" in corrupt.value.next_step
    assert path.read_bytes() == before


def test_damage_is_told_wherever_a_query_meets_it_and_a_new_catalogue_takes_over_what_can_be_read(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(8)
    asked = [request(f"many {number}") for number in range(6000)]
    texts = {one.key: rng.randbytes(300).hex() for one in asked}
    catalogue.add_completions(asked, [completion(one, texts[one.key]) for one in asked])
    with catalogue.store.reading() as con:
        segments = "SELECT DISTINCT block_id FROM pragma_storage_info('completions') WHERE column_name = 'text'"
        blocks = sorted(block for (block,) in con.execute(segments).fetchall() if block > 0)
    data = bytearray(catalogue.path.read_bytes())
    # Three headers of 4 KiB, then blocks of 256 KiB.
    place = 3 * 4096 + blocks[len(blocks) // 2] * 262_144 + 1000
    data[place] ^= 1
    catalogue.path.write_bytes(data)
    keys = list(texts)

    with pytest.raises(CatalogueCorrupt, match="is damaged") as corrupt:
        catalogue.answered(keys)
    assert catalogue.path.read_bytes() == data

    command = corrupt.value.next_step.partition("mv ")[2].split()
    Path(command[0]).rename(command[1])
    renewed = Catalogue(catalogue.home)
    found = renewed.answered(keys)
    assert 0 < len(found) < len(keys)
    assert all(answer.text == texts[key] for key, answer in found.items())
    assert f"took over {len(found)} answers" in caplog.text
    assert_all_there(Catalogue(catalogue.home), store(renewed, "later"))


def test_a_log_that_outlived_its_file_is_not_replayed_into_a_new_one(interrupted: tuple[Path, list[str]]) -> None:
    home, _ = interrupted
    (home / "catalogue.duckdb").unlink()
    assert Catalogue(home).refusals() == []
    assert len(list(home.glob("catalogue.duckdb.wal.torn-*"))) == 1


def test_a_home_that_cannot_be_made_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="can't be created"):
        Catalogue(tmp_path / "file" / "home")


def test_a_catalogue_of_a_newer_duckdb_is_no_damage(catalogue: Catalogue) -> None:
    data = bytearray(catalogue.path.read_bytes())
    header = json.dumps({"magic": data[8:12].decode()})
    assert header == '{"magic": "DUCK"}'
    # Eight bytes of checksum, four of magic, then the storage version, which stands in each header block.
    data[12:20] = (999).to_bytes(8, "little")
    catalogue.path.write_bytes(data)
    with pytest.raises(CatalogueError) as refused:
        Catalogue(catalogue.home)
    assert catalogue.path.read_bytes() == data
    assert refused.value.exit_code == 8
