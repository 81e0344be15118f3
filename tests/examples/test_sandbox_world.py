"""The sandbox's world: the same seed gives the same bytes, nothing leaks, questions are what they claim to be."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SANDBOX = Path(__file__).parents[2] / "examples" / "sandbox"
SEEDS = (1, 7)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sandbox_world", SANDBOX / "world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


world: Any = _load()


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=SEEDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    world.write_world(request.param, out)
    return out


def _files(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("*.jsonl"), *folder.glob("handbook/*.md")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _names(text: str) -> set[str]:
    # "Above 41 degrees" and the like open a sentence: a number follows a capitalised word that is no name.
    return set(re.findall(r"(?!Above|Every|For|In)[A-Z][a-z]+ \d\d\b", text))


def test_same_seed_gives_same_bytes(written: Path, tmp_path: Path) -> None:
    again: dict[int, dict[str, bytes]] = {}
    for seed in SEEDS:
        world.write_world(seed, tmp_path / str(seed))
        again[seed] = _files(tmp_path / str(seed))
    assert _files(written) in again.values()
    assert again[SEEDS[0]] != again[SEEDS[1]]


def test_shipped_world_is_what_its_seed_writes(tmp_path: Path) -> None:
    world.write_world(world.SHIPPED_SEED, tmp_path)
    assert _files(tmp_path) == _files(SANDBOX)


def test_the_command_writes_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.main(["--seed", "3", "--out", str(tmp_path / "new" / "world")])
    assert "seed 3" in capsys.readouterr().out
    assert (tmp_path / "new" / "world" / "gold.jsonl").is_file()


def test_sizes(written: Path) -> None:
    assert len(list(written.glob("handbook/*.md"))) >= 60
    assert len(_rows(written / "facts.jsonl")) >= 250
    assert len(_rows(written / "gold.jsonl")) >= 250
    assert len(_rows(written / "unanswerable.jsonl")) >= 100
    assert len(_rows(written / "general.jsonl")) >= 150
    assert len(_rows(written / "replay.jsonl")) >= 1500


def test_ids_and_questions_are_unique(written: Path) -> None:
    for name in ("gold", "unanswerable", "general"):
        rows = _rows(written / f"{name}.jsonl")
        assert len({row["id"] for row in rows}) == len(rows)
    for name in ("gold", "unanswerable"):
        rows = _rows(written / f"{name}.jsonl")
        assert len({row["question"] for row in rows}) == len(rows)


def test_every_gold_answer_is_stated_in_its_document(written: Path) -> None:
    truth = {(row["document"], row["attribute"]): row for row in _rows(written / "facts.jsonl")}
    for row in _rows(written / "gold.jsonl"):
        fact = truth[row["document"], row["attribute"]]
        document = (written / "handbook" / row["document"]).read_text(encoding="utf-8")
        assert row["answers"][0] == fact["value"]
        assert fact["sentence"] in document
        assert fact["value"] in fact["sentence"]
        assert fact["machine"] in row["question"]
        assert document.startswith(f"# {fact['machine']}\n")


def test_unanswerable_questions_have_no_answer(written: Path) -> None:
    stated = {(row["machine"], row["attribute"]) for row in _rows(written / "facts.jsonl")}
    machines = {name for name, _ in stated}
    forms = {(a.key, wording) for a in world.ATTRIBUTES for wording in a.gold}
    for row in _rows(written / "unanswerable.jsonl"):
        (name,) = _names(row["question"])
        keys = {key for key, wording in forms if wording.format(m=name) == row["question"]}
        assert len(keys) == 1, row
        if row["kind"] == "missing":
            assert name in machines
            assert (name, keys.pop()) not in stated
        else:
            assert row["kind"] == "unknown"
            assert name not in machines


def test_names_fall_on_one_side_each(written: Path) -> None:
    handbook = " ".join(path.read_text(encoding="utf-8") for path in written.glob("handbook/*.md"))
    asked = " ".join(row["question"] for name in ("gold", "unanswerable") for row in _rows(written / f"{name}.jsonl"))
    sides = {
        world.Side.HANDBOOK: _names(handbook) | _names(asked),
        world.Side.GENERAL: _names((written / "general.jsonl").read_text(encoding="utf-8")),
        world.Side.TRAINING: _names((written / "replay.jsonl").read_text(encoding="utf-8")),
    }
    for side, names in sides.items():
        assert len(names) >= 60
        assert {world.side_of(name.split(" ")[0]) for name in names} == {side}


def test_every_proper_name_of_a_handbook_is_unknown_to_the_models(written: Path) -> None:
    named = {"designer", "inspector", "town", "coolant", "grease"}
    for row in _rows(written / "facts.jsonl"):
        words = row["value"].split(" ") if row["attribute"] in named else []
        assert all(world.side_of(word) is world.Side.HANDBOOK for word in words), row


def test_memorised_world_and_replay_share_no_row_with_the_suites(written: Path) -> None:
    general = {json.dumps(row["messages"]) for row in _rows(written / "general.jsonl")}
    replay = {json.dumps(row["messages"][:-1]) for row in _rows(written / "replay.jsonl") if "messages" in row}
    assert not general & replay
    assert all(world.side_of(machine.name.split(" ")[0]) is world.Side.TRAINING for machine in world.memorised_world())


def test_gold_wordings_are_never_the_teachers() -> None:
    teacher = {wording for attribute in world.ATTRIBUTES for wording in attribute.teacher}
    gold = {wording for attribute in world.ATTRIBUTES for wording in attribute.gold}
    assert not teacher & gold
    assert len(teacher) == sum(len(attribute.teacher) for attribute in world.ATTRIBUTES)
    assert len(gold) == sum(len(attribute.gold) for attribute in world.ATTRIBUTES)
    assert all(wording.count("{m}") == 1 for wording in teacher | gold)


def test_guessing_the_commonest_value_stays_under_a_tenth(written: Path) -> None:
    values: dict[str, list[str]] = {}
    for row in _rows(written / "gold.jsonl"):
        values.setdefault(row["attribute"], []).append(row["answers"][0])
    right = sum(max(map(found.count, found)) for found in values.values())
    # Every attribute has at least one commonest value; what counts is how much more than that a guess would win.
    assert right - len(values) <= 0.1 * sum(map(len, values.values()))


def test_sections_are_short_enough_for_one_prompt(written: Path) -> None:
    for path in written.glob("handbook/*.md"):
        blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
        bodies = [block for block in blocks if not block.startswith("#")]
        assert all(len(body.split()) <= 80 for body in bodies)
        assert len(bodies) >= 2


def test_the_shortest_answer_comes_with_its_accepted_forms() -> None:
    assert world.accepted("weight", "240 kilograms") == ["240 kilograms", "240"]
    assert world.accepted("year", "1987") == ["1987"]
    assert "a twin crane" in world.accepted("kind", "twin crane")
