"""SIGKILL at any moment of a promotion or a rollback: one production, never two, never none, and a whole log."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.records import Stage
from data_catalog.registry import Registry, RegistryEvent
from tests.data_catalog.small_world import register_gated, write_model

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def switcher(home: Path, models: list[str]) -> Iterator[tuple[IO[str], IO[str]]]:
    """Start the process that forks switching children; yield its standard input and output."""
    command = [sys.executable, str(Path(__file__).with_name("switcher.py")), str(home), *models]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


def kill_once(orders: IO[str], answers: IO[str], seed: int, after: float, moves: int) -> list[str]:
    """Let a child switch, kill it `after` seconds beyond its `moves`th move, and return the hashes of its moves."""
    print(seed, file=orders, flush=True)
    child, seen, killed = 0, list[str](), False
    for line in answers:
        word, *rest = line.split()
        if word == "ended":
            assert int(rest[0]) == -signal.SIGKILL, "it was killed, and did not fail"
            return seen
        if word == "child":
            child = int(rest[0])
        else:
            seen.append(rest[1])
        if child and len(seen) >= moves and not killed:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
            killed = True
    raise AssertionError("the switcher itself has ended")


def check(catalogue: Catalogue, models: list[str], acknowledged: list[str]) -> list[RegistryEvent]:
    """Check all that must hold after a kill; return the log."""
    registry = Registry(catalogue)
    pointer = catalogue.models_dir / "production.json"
    told = json.loads(pointer.read_text())["model_id"]
    assert told in models, "other programs read a whole file that names a version"
    events = registry.history()
    assert registry.verify_chain() == len(events)
    told_of = set(acknowledged)
    assert acknowledged == [event.hash for event in events if event.hash in told_of], "no move is lost"
    with catalogue.store.reading() as con:
        pointing = con.execute("SELECT model_id FROM stage_pointers WHERE stage = 'production'").fetchall()
    assert len(pointing) == 1, "never two, never none"
    production = registry.stages()[Stage.PRODUCTION]
    assert production is not None
    assert production.id == pointing[0][0]
    moves = [event for event in events if event.stage is Stage.PRODUCTION]
    assert production.id == moves[-1].model_id
    archived = [event.model_id for event in events if event.action == "archive"]
    replaced = [move.details["replaced"] for move in moves if move.details["replaced"] not in (None, move.model_id)]
    assert archived == replaced, "a move and the archiving that belongs to it are one"
    assert json.loads(pointer.read_text())["model_id"] == production.id, "and the next reader puts the file right"
    return events


def kill_often(catalogue: Catalogue, directory: Path, kills: int, seed: int) -> None:
    """Kill `kills` children at random moments, and check after each."""
    rng = random.Random(seed)
    models = [register_gated(catalogue, write_model(directory / name, name.encode())).id for name in ("one", "two")]
    Registry(catalogue).promote(models[0], Stage.PRODUCTION, actor="test")
    acknowledged: list[str] = []
    started = time.monotonic()
    Registry(catalogue).promote(models[1], Stage.PRODUCTION, actor="test")
    usual = time.monotonic() - started
    with switcher(catalogue.home, models) as (orders, answers):
        for number in range(kills):
            after = rng.uniform(0, 1.5 * usual)
            acknowledged += kill_once(orders, answers, number, after, moves=rng.choice([0, 1, 1]))
            check(catalogue, models, acknowledged)
    events = check(catalogue, models, acknowledged)
    assert len(events) > len(acknowledged) > 0, "children were killed at work, not before it"


def test_a_kill_leaves_one_production_and_a_whole_log(catalogue: Catalogue, tmp_path: Path) -> None:
    kill_often(catalogue, tmp_path, kills=20, seed=1)


@pytest.mark.slow
def test_five_hundred_kills_leave_one_production_and_a_whole_log(tmp_path: Path) -> None:
    """In two catalogues at a time: a switch mostly waits for the disk."""

    def half(seed: int) -> None:
        kill_often(Catalogue(tmp_path / str(seed) / "home"), tmp_path / str(seed), kills=250, seed=seed)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, (2, 3)))
