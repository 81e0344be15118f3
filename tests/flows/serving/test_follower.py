"""Following a stage: load beside, ask, switch, drain; and stay with the old one where anything is wrong."""

from __future__ import annotations

import pytest

from data_catalog.errors import CatalogueBusy, MachineError, RegistryError
from flows.serving.wire import ApiError
from tests.flows.serving.fakes import FakeBackend, World


def test_a_promotion_is_switched_to_and_the_old_version_ends() -> None:
    world = World()
    world.follower.open_first()
    world.stage.move("model-2")
    world.follower.tick()
    assert world.active == "model-2"
    assert not world.stopped("model-1"), "it is ended by the next look, when nothing is in flight"
    world.follower.tick()
    assert world.stopped("model-1")
    assert not world.stopped("model-2")
    assert [(version, switched) for version, switched, _ in world.stage.notes] == [("model-1", True), ("model-2", True)]
    assert world.stage.notes[1][2]["replaced"] == "model-1"
    assert world.stage.notes[1][2]["canary"] == {"asked": 1, "right": 1}


def test_the_old_version_finishes_what_it_has_begun_while_the_new_one_answers() -> None:
    world = World()
    world.follower.open_first()
    with world.follower.lease() as old:
        world.stage.move("model-2")
        world.follower.tick()
        with world.follower.lease() as new:
            assert (old.version, new.version) == ("model-1", "model-2")
        world.stage.move("model-3")
        world.follower.tick()
        assert not world.stopped("model-1")
        assert "model-3" not in world.backends, "never three at once"
        assert world.follower.in_flight == 1
    world.follower.tick()
    assert world.stopped("model-1")
    assert world.active == "model-3", "and then it goes on to the newest"


def test_a_drain_has_an_end() -> None:
    world = World(drain_seconds=0.0)
    world.follower.open_first()
    with world.follower.lease():
        world.stage.move("model-2")
        world.follower.tick()
        world.follower.tick()
        assert world.stopped("model-1")
    assert any("1 requests cut off" in line for line in world.said)


def wrong(version: str) -> FakeBackend:
    return FakeBackend(version, answer="blue")


def unloadable(version: str) -> FakeBackend:
    return FakeBackend(version, start_error="out of memory")


@pytest.mark.parametrize(
    ("made", "reason"), [(wrong, "0 of 1 canary answers right"), (unloadable, "out of memory")], ids=["canary", "load"]
)
def test_the_old_version_stays_where_the_new_one_is_refused(made: object, reason: str) -> None:
    world = World()
    world.follower.open_first()
    world.made = made  # type: ignore[assignment]
    world.stage.move("model-2")
    world.follower.tick()
    assert world.active == "model-1"
    assert world.stopped("model-2")
    assert world.follower.refused is not None
    version, switched, details = world.stage.notes[-1]
    assert (version, switched, details["kept"]) == ("model-2", False, "model-1")
    assert reason in details["reason"]
    assert any("model-1 goes on answering for production" in line for line in world.said)
    world.backends.clear()
    world.follower.tick()
    assert not world.backends, "the same entry of the log is tried once"


def test_altered_bytes_are_never_loaded() -> None:
    world = World()
    world.follower.open_first()
    world.stage.altered.add("model-2")
    world.stage.move("model-2")
    world.follower.tick()
    assert world.active == "model-1"
    assert "model-2" not in world.backends
    assert world.stage.notes[-1][1] is False


def test_a_version_that_is_promoted_again_is_tried_again() -> None:
    world = World()
    world.follower.open_first()
    world.made = wrong
    world.stage.move("model-2")
    world.follower.tick()
    world.made = FakeBackend
    world.stage.move("model-2")
    world.follower.tick()
    assert world.active == "model-2"
    assert world.follower.refused is None


def test_a_rollback_to_the_version_that_answers_loads_nothing_and_clears_the_refusal() -> None:
    world = World()
    world.follower.open_first()
    first = world.backends["model-1"]
    world.made = wrong
    world.stage.move("model-2")
    world.follower.tick()
    world.stage.move("model-1")
    world.follower.tick()
    assert world.follower.refused is None
    assert world.backends["model-1"] is first
    assert not first.stopped


def test_with_nothing_to_stay_with_a_refusal_is_an_error() -> None:
    world = World()
    world.made = wrong
    with pytest.raises(RegistryError, match=r"failed the canary set.*'What colour is the rotor\?' -> 'blue' instead"):
        world.follower.open_first()
    assert world.stopped("model-1")
    with pytest.raises(ApiError) as refused, world.follower.lease():
        pass
    assert refused.value.status == 503


def test_an_empty_stage_is_said() -> None:
    world = World()
    world.stage.current = None
    with pytest.raises(RegistryError, match="no model in stage `production`"):
        world.follower.open_first()


def test_a_backend_that_died_is_started_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    world = World()
    world.follower.open_first()
    dead = world.backends["model-1"]
    dead.running = False
    world.made = unloadable
    world.follower.tick()
    assert world.follower.active is None
    assert dead.stopped
    failed = world.backends.pop("model-1")
    assert failed.stopped
    world.follower.tick()
    assert not world.backends, "not before the pause is over"
    now[0] += 2.1
    world.made = FakeBackend
    world.follower.tick()
    assert world.active == "model-1"
    assert len(world.stage.notes) == 1, "the version has not changed, so the registry hears nothing"


def test_a_promotion_replaces_a_version_that_can_not_be_started_again() -> None:
    world = World()
    world.follower.open_first()
    world.backends["model-1"].running = False
    world.made = lambda version: unloadable(version) if version == "model-1" else FakeBackend(version)
    world.follower.tick()
    world.stage.move("model-2")
    world.follower.tick()
    assert world.active == "model-2"


@pytest.mark.parametrize("error", [CatalogueBusy("a run holds it"), MachineError("disk full")])
def test_answering_does_not_depend_on_the_log(error: Exception) -> None:
    world = World()
    world.stage.note_error = error
    world.follower.open_first()
    assert world.active == "model-1"
    assert any("the registry's log has no entry of this" in line for line in world.said)


def test_closing_waits_for_what_is_in_flight_and_ends_everything() -> None:
    world = World()
    world.follower.open_first()
    with world.follower.lease():
        world.follower.close(grace=0.0)
        assert world.stopped("model-1")
    with pytest.raises(ApiError, match="stopping"), world.follower.lease():
        pass
