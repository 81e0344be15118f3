"""The registry: what was gated is what is promoted, and whatever was done stands in the log."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import MachineError, RegistryError
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry import Registry, candidate_id, model_manifest
from tests.data_catalog.small_world import register_gated, write_model


@pytest.fixture
def registry(catalogue: Catalogue) -> Registry:
    return Registry(catalogue)


@pytest.fixture
def gated(catalogue: Catalogue, tmp_path: Path) -> Callable[[str], ModelVersion]:
    """Register a model with a passed gate; its weights are the bytes of a name."""

    def register(name: str) -> ModelVersion:
        return register_gated(catalogue, write_model(tmp_path / name, name.encode()))

    return register


def change(catalogue: Catalogue, sql: str) -> None:
    """Do to the catalogue what only somebody with an editor of its file would."""
    with catalogue.store.writing() as con:
        con.execute(sql)


def current(registry: Registry) -> dict[str, str]:
    return {stage.value: version.id for stage, version in registry.stages().items() if version}


# Registering


def test_a_model_is_copied_whole_and_read_only(catalogue: Catalogue, registry: Registry, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    version = registry.register(source, {"base": "b", "stages": []})
    assert version.manifest == model_manifest(source)
    assert version.id == ModelVersion.identity(version.manifest)
    directory = catalogue.home / version.path
    assert (directory / "tokenizer" / "vocab.txt").read_bytes() == b"a\nb\n"
    assert all(path.stat().st_mode & 0o222 == 0 for path in [directory, *directory.rglob("*")])
    assert registry.verify(version.id) == version
    assert current(registry) == {"candidate": version.id}


def test_registering_the_same_bytes_again_changes_nothing(
    registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    assert gated("one") == gated("one")
    assert len(registry.history()) == 1
    assert len(registry.models()) == 1


def test_a_damaged_copy_is_replaced_and_kept_aside(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    version = gated("one")
    weights = catalogue.home / version.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"something else")
    gated("one")
    registry.verify(version.id)
    (aside,) = catalogue.models_dir.glob(".damaged-*")
    assert (aside / "model.safetensors").read_bytes() == b"something else"


def _pickle(directory: Path) -> None:
    (directory / "training_args.bin").write_bytes(pickle.dumps({}))


def _torch(directory: Path) -> None:
    (directory / "tokenizer" / "optimizer.PT").write_bytes(b"")


def _code(directory: Path) -> None:
    (directory / "modeling_mine.py").write_text("import os")


def _link(directory: Path) -> None:
    (directory / "generation_config.json").symlink_to("/etc/hostname")


def _linked_directory(directory: Path) -> None:
    (directory / "more").symlink_to(directory / "tokenizer", target_is_directory=True)


def _auto_map(directory: Path) -> None:
    (directory / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_mine.Mine"}}')


def _tokenizer_auto_map(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["mine.Mine", null]}}')


def _broken_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"auto_map"')


def _cut_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _pipe(directory: Path) -> None:
    os.mkfifo(directory / "pipe")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickle, r"training_args\.bin may be a pickle"),
        (_torch, r"optimizer\.PT may be a pickle"),
        (_code, r"modeling_mine\.py is code"),
        (_link, r"generation_config\.json is a link"),
        (_linked_directory, r"more is a link"),
        (_auto_map, r"config\.json has an `auto_map`"),
        (_tokenizer_auto_map, r"tokenizer_config\.json has an `auto_map`"),
        (_broken_config, r"config\.json is not JSON"),
        (_cut_weights, r"model\.safetensors has \d+ bytes where its header says"),
        (_no_weights, r"is no model directory"),
        (_pipe, r"pipe is no regular file"),
    ],
)
def test_what_could_run_code_or_change_later_is_refused(
    catalogue: Catalogue, registry: Registry, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    directory = write_model(tmp_path / "model")
    spoil(directory)
    with pytest.raises(RegistryError, match=message):
        registry.register(directory, {"stages": []})
    assert registry.models() == []
    assert [path for path in catalogue.models_dir.iterdir() if path.is_dir()] == []


def test_leftovers_of_a_killed_registration_are_removed(
    catalogue: Catalogue, gated: Callable[[str], ModelVersion]
) -> None:
    dead = catalogue.models_dir / ".incoming-999999999-abc"
    alive = catalogue.models_dir / f".incoming-{os.getppid()}-abc"
    for leftover in (dead, alive):
        leftover.mkdir()
    gated("one")
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("lineage", [{"stages": "sft"}, {"stages": ["sft"]}])
def test_a_lineage_that_cannot_be_read_is_refused(
    registry: Registry, tmp_path: Path, lineage: Mapping[str, Any]
) -> None:
    with pytest.raises(RegistryError, match="`stages` can't be read"):
        registry.register(write_model(tmp_path / "model"), lineage)


# Verifying


@pytest.mark.parametrize("how", ["one bit", "longer", "missing", "added", "gone"])
def test_any_change_is_found_and_named(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion], how: str
) -> None:
    version = gated("one")
    directory = catalogue.home / version.path
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o755)
    weights = directory / "model.safetensors"
    data = weights.read_bytes()
    if how == "one bit":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "longer":
        weights.write_bytes(data + b"\0")
    elif how == "missing":
        weights.unlink()
    elif how == "added":
        (directory / "adapter.safetensors").write_bytes(data)
    else:
        directory.rename(tmp := directory.with_name("elsewhere"))
        assert tmp.exists()
    named = {"added": "adapter.safetensors was added", "gone": "is missing"}.get(how, r"model\.safetensors")
    with pytest.raises(RegistryError, match=named):
        registry.verify(version.id)
    with pytest.raises(RegistryError, match=named):
        registry.promote(version.id, Stage.STAGING, actor="me", override_reason="I insist")
    assert "staging" not in current(registry)


def test_a_manifest_that_was_edited_is_found(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    version = gated("one")
    change(catalogue, "UPDATE models SET manifest = replace(manifest, 'config.json', 'c0nfig.json')")
    with pytest.raises(RegistryError, match=r"the manifest of .* was changed"):
        registry.verify(version.id)


# Promoting


def test_a_gated_candidate_goes_to_staging_and_production(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one, two = gated("one"), gated("two")
    registry.promote(one.id, Stage.STAGING, actor="me")
    registry.promote("staging", Stage.PRODUCTION, actor="me")
    event = registry.promote(two.id.removeprefix("model-")[:8], Stage.PRODUCTION, actor="me")
    assert event.details["replaced"] == one.id
    assert event.details["gates"][0]["outcome"] == "PASS"
    assert current(registry) == {"candidate": two.id, "staging": one.id, "production": two.id, "archived": one.id}
    assert [entry.action for entry in registry.history(Stage.PRODUCTION)] == ["promote", "promote"]
    assert registry.verify_chain() == 6
    details = registry.show("production")
    assert details.version == two
    assert details.stages == (Stage.CANDIDATE, Stage.PRODUCTION)
    assert [gate.outcome for gate in details.gates] == ["PASS"]
    assert [entry.action for entry in details.events] == ["register", "promote"]
    assert catalogue.gates(details.gates[0].candidate) == list(details.gates)


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_a_gate_that_did_not_pass_stops_a_promotion(
    catalogue: Catalogue, registry: Registry, tmp_path: Path, outcome: str
) -> None:
    version = register_gated(catalogue, write_model(tmp_path / "model"), outcome=outcome)
    with pytest.raises(RegistryError, match=f"says {outcome}"):
        registry.promote(version.id, Stage.PRODUCTION, actor="me")
    assert "production" not in current(registry)


def test_every_gate_on_the_way_must_have_passed(catalogue: Catalogue, registry: Registry, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    gates = [
        GateRecord.of(
            candidate=candidate_id(directory),
            baseline="base",
            stage_name=name,
            outcome=outcome,
            comparisons=[],
            created_at=1.0,
        )
        for name, outcome in (("sft", "FAIL"), ("dpo", "pass"))
    ]
    for gate in gates:
        catalogue.put_gate(gate)
    stages = [{"name": gate.stage_name, "run_id": None, "dataset_id": None, "gate_id": gate.id} for gate in gates]
    failed = registry.register(directory, {"stages": stages})
    with pytest.raises(RegistryError, match="behind stage `sft` says FAIL"):
        registry.promote(failed.id, Stage.STAGING, actor="me")
    ungated_before = [{**stages[0], "gate_id": None}, stages[1]]
    registry.register(directory, {"stages": ungated_before})
    registry.promote(failed.id, Stage.STAGING, actor="me")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "no gate stands behind its last"),
        ([{"name": "sft", "gate_id": None}], "no gate stands behind its last"),
        ([{"name": "sft", "gate_id": "gate-unknown"}], "gate-unknown of its lineage is not in the catalogue"),
    ],
)
def test_an_ungated_model_is_refused(
    registry: Registry, tmp_path: Path, stages: list[dict[str, Any]], message: str
) -> None:
    version = registry.register(write_model(tmp_path / "model"), {"stages": stages})
    with pytest.raises(RegistryError, match=message):
        registry.promote(version.id, Stage.STAGING, actor="me")


def test_the_gate_of_other_bytes_is_no_approval(catalogue: Catalogue, registry: Registry, tmp_path: Path) -> None:
    gated_version = register_gated(catalogue, write_model(tmp_path / "gated", b"gated"))
    other = registry.register(write_model(tmp_path / "other", b"other"), gated_version.lineage)
    with pytest.raises(RegistryError, match="which are other bytes"):
        registry.promote(other.id, Stage.STAGING, actor="me")


def test_a_model_card_may_be_written_after_the_gate(catalogue: Catalogue, registry: Registry, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    before = candidate_id(directory)
    (directory / "README.md").write_text("It answers 81 % of the gold questions.")
    assert candidate_id(directory) == before
    version = register_gated(catalogue, directory)
    registry.promote(version.id, Stage.STAGING, actor="me")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert candidate_id(directory) != before


def test_a_lineage_that_was_edited_is_no_approval(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    version = gated("one")
    change(catalogue, 'UPDATE models SET lineage = replace(lineage, \'"base":"base"\', \'"base":"better"\')')
    with pytest.raises(RegistryError, match="not the one that it was registered with"):
        registry.promote(version.id, Stage.STAGING, actor="me")


def test_an_override_stands_in_the_log_with_its_reason(
    catalogue: Catalogue, registry: Registry, tmp_path: Path
) -> None:
    version = register_gated(catalogue, write_model(tmp_path / "model"), outcome="FAIL")
    with pytest.raises(RegistryError, match="without a reason"):
        registry.promote(version.id, Stage.STAGING, actor="me", override_reason="  ")
    event = registry.promote(version.id, Stage.STAGING, actor="me", override_reason="the suite is wrong")
    assert (event.actor, event.details["override"]) == ("me", "the suite is wrong")
    assert registry.history(Stage.STAGING) == [event]


def test_a_stage_that_somebody_else_moved_is_left_alone(
    registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one, two = gated("one"), gated("two")
    registry.promote(one.id, Stage.STAGING, actor="me", expected_current="")
    with pytest.raises(RegistryError, match=f"points to {one.id}, not to {two.id}"):
        registry.promote(two.id, Stage.STAGING, actor="me", expected_current=two.id)
    with pytest.raises(RegistryError, match="not to nothing"):
        registry.promote(two.id, Stage.STAGING, actor="me", expected_current="")
    registry.promote(two.id, Stage.STAGING, actor="me", expected_current=one.id)


@pytest.mark.parametrize("stage", [Stage.CANDIDATE, Stage.ARCHIVED])
def test_only_staging_and_production_can_be_promoted_to(
    registry: Registry, gated: Callable[[str], ModelVersion], stage: Stage
) -> None:
    with pytest.raises(RegistryError, match="nothing can be promoted to"):
        registry.promote(gated("one").id, stage, actor="me")
    with pytest.raises(RegistryError, match="can't be rolled back"):
        registry.rollback(stage, actor="me")


# Rolling back


def test_rolling_back_goes_one_version_further_each_time(
    registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one, two, three = (gated(name) for name in ("one", "two", "three"))
    for version in (one, two, two, three):
        registry.promote(version.id, Stage.PRODUCTION, actor="me")
    assert registry.rollback(Stage.PRODUCTION, actor="me").model_id == two.id
    assert current(registry)["archived"] == three.id
    assert registry.rollback(Stage.PRODUCTION, actor="me").model_id == one.id
    with pytest.raises(RegistryError, match="no earlier version"):
        registry.rollback(Stage.PRODUCTION, actor="me")
    registry.promote(three.id, Stage.PRODUCTION, actor="me")
    assert registry.rollback(Stage.PRODUCTION, actor="me").details["replaced"] == three.id
    assert current(registry)["production"] == one.id
    registry.verify_chain()


def test_rolling_back_to_changed_bytes_is_refused(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one, two = gated("one"), gated("two")
    registry.promote(one.id, Stage.PRODUCTION, actor="me")
    registry.promote(two.id, Stage.PRODUCTION, actor="me")
    config = catalogue.home / one.path / "config.json"
    config.chmod(0o644)
    config.write_text('{"model_type": "Llama"}')
    with pytest.raises(RegistryError, match=r"config\.json"):
        registry.rollback(Stage.PRODUCTION, actor="me")
    assert current(registry)["production"] == two.id


# Names


def test_a_version_is_found_by_what_is_unique(registry: Registry, gated: Callable[[str], ModelVersion]) -> None:
    one, two = gated("one"), gated("two")
    assert registry.resolve(one.id) == registry.resolve(one.id[:12]) == one
    assert registry.resolve("candidate") == two
    with pytest.raises(RegistryError, match=f"fits 2 model versions: .*{one.id}"):
        registry.resolve("model-")
    for nothing in ("zzz", ""):
        with pytest.raises(RegistryError, match="fits no model versions"):
            registry.resolve(nothing)
    with pytest.raises(RegistryError, match="no model in stage `production`"):
        registry.resolve("production")


# The log and the pointer files


@pytest.mark.parametrize(
    ("sql", "entry", "what"),
    [
        ("UPDATE registry_events SET actor = 'somebody' WHERE seq = 2", 2, "was changed"),
        ("UPDATE registry_events SET model_id = 'model-evil' WHERE seq = 3", 3, "was changed"),
        ("DELETE FROM registry_events WHERE seq = 2", 2, "is missing"),
        ("DELETE FROM registry_events WHERE seq = 4", 4, "is missing: the log once had 4 entries"),
        ("DELETE FROM registry_events", 1, "is missing"),
    ],
)
def test_tampering_with_the_log_is_found_and_located(
    catalogue: Catalogue,
    registry: Registry,
    gated: Callable[[str], ModelVersion],
    sql: str,
    entry: int,
    what: str,
) -> None:
    for name in ("one", "two"):
        registry.promote(gated(name).id, Stage.STAGING, actor="me")
    assert registry.verify_chain() == 4
    change(catalogue, sql)
    with pytest.raises(RegistryError, match=f"entry {entry} .*{what}"):
        registry.verify_chain()


def test_an_entry_that_was_rewritten_with_its_hash_breaks_the_next(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    registry.promote(gated("one").id, Stage.STAGING, actor="me")
    first = registry.history()[0].model_copy(update={"actor": "somebody"})
    forged = first.computed_hash()
    change(catalogue, f"UPDATE registry_events SET actor = 'somebody', hash = '{forged}' WHERE seq = 1")
    with pytest.raises(RegistryError, match="entry 2 does not follow"):
        registry.verify_chain()


def test_a_log_that_was_rewritten_altogether_differs_from_what_is_remembered(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    gated("one")
    forged = registry.history()[0].model_copy(update={"actor": "somebody"}).computed_hash()
    change(catalogue, f"UPDATE registry_events SET actor = 'somebody', hash = '{forged}'")
    with pytest.raises(RegistryError, match=r"entry 1 is not the one that .*log-head\.json remembers"):
        registry.verify_chain()


@pytest.mark.parametrize("how", ["missing", "garbled", "stale", "empty stage"])
def test_pointer_files_follow_the_log(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion], how: str
) -> None:
    version = gated("one")
    registry.promote(version.id, Stage.STAGING, actor="me")
    pointer = catalogue.models_dir / "staging.json"
    good = json.loads(pointer.read_text())
    assert good["model_id"] == version.id
    assert (catalogue.home / good["path"]).is_dir()
    spoiled = pointer if how != "empty stage" else catalogue.models_dir / "production.json"
    if how == "missing":
        pointer.unlink()
    elif how == "garbled":
        pointer.write_text('{"model_id": "mod')
    else:
        spoiled.write_text(json.dumps({**good, "model_id": "model-of-yesterday"}))
    registry.stages()
    assert json.loads(pointer.read_text()) == good
    assert spoiled.exists() == (spoiled == pointer)


def test_whoever_reads_a_pointer_file_gets_the_old_version_or_the_new_one(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one, two = gated("one"), gated("two")
    registry.promote(one.id, Stage.PRODUCTION, actor="me")
    pointer, seen, done = catalogue.models_dir / "production.json", list[str](), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(json.loads(pointer.read_text())["model_id"])
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        registry.promote(two.id, Stage.PRODUCTION, actor="me")
        registry.rollback(Stage.PRODUCTION, actor="me")
        done.set()
        reading.result()
    assert [version for version, _ in groupby(seen)] == [one.id, two.id, one.id]


def test_pointer_files_that_can_not_be_written_are_no_silent_success(
    catalogue: Catalogue, registry: Registry, gated: Callable[[str], ModelVersion]
) -> None:
    one = gated("one")
    in_the_way = catalogue.models_dir / "production.json"
    in_the_way.mkdir()
    with pytest.raises(MachineError, match=r"the log has the change, but the pointer files .* could not be written"):
        registry.promote(one.id, Stage.PRODUCTION, actor="me")
    in_the_way.rmdir()
    assert current(registry)["production"] == one.id
    assert json.loads(in_the_way.read_text())["model_id"] == one.id


def test_what_a_killed_writer_left_of_a_pointer_file_is_removed(
    catalogue: Catalogue, gated: Callable[[str], ModelVersion]
) -> None:
    draft = catalogue.models_dir / ".production.json.4711"
    draft.write_text('{"model_id": "mod')
    gated("one")
    assert not draft.exists()
