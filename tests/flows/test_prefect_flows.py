"""The flows' forms, and the plain parts around them that need no server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema

from data_catalog.errors import CatalogueBusy, ConfigError
from flows import prefect_flows
from flows.prefect_flows import FlowReporter, plain, report_link, when_free
from flows.server import SERVED_BY
from tests.flows.projects import write_project


class FakeClock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class BusyUntil:
    """An action refused with CatalogueBusy until a time of `clock`."""

    def __init__(self, clock: FakeClock, free_at: float) -> None:
        self.clock, self.free_at, self.calls = clock, free_at, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.clock.now < self.free_at:
            raise CatalogueBusy("process 7 runs `tutelage run`")
        return "done"


def test_pipeline_form_has_bounds_choices_and_help_in_order() -> None:
    schema = parameter_schema(prefect_flows.pipeline.fn).model_dump()
    fields = schema["properties"]
    assert [name for name, _ in sorted(fields.items(), key=lambda entry: entry[1]["position"])] == [
        "config",
        "promote_to",
        "wait_minutes",
    ]
    assert schema["required"] == ["config"]
    assert (fields["wait_minutes"]["minimum"], fields["wait_minutes"]["maximum"]) == (0, 1440)
    assert schema["definitions"]["AfterPass"]["enum"] == ["nothing", "staging", "production"]
    assert all(field.get("description") for field in fields.values())


@pytest.mark.parametrize("flow", [prefect_flows.pipeline, prefect_flows.refresh, prefect_flows.promote])
def test_every_field_of_every_form_is_explained(flow: object) -> None:
    schema = parameter_schema(flow.fn).model_dump()  # type: ignore[attr-defined]
    unexplained = [name for name, field in schema["properties"].items() if not field.get("description")]
    assert unexplained == []


def test_promote_form_offers_the_two_stages_and_no_other() -> None:
    schema = parameter_schema(prefect_flows.promote.fn).model_dump()
    assert schema["definitions"]["PromotionStage"]["enum"] == ["staging", "production"]
    assert schema["properties"]["override"]["default"] is False


def test_a_pipeline_can_not_promote_to_where_an_approval_is_demanded(tmp_path: Path) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1")
    with config.open("a") as stream:
        stream.write("promotion: {needs_approval: [production]}\n")
    with pytest.raises(ConfigError, match="`promote_to: production`, which this project opens only with an approval"):
        prefect_flows.pipeline.fn(str(config), prefect_flows.AfterPass.PRODUCTION)
    assert not (tmp_path / ".tutelage").exists(), "it is refused before anything starts"


def test_a_busy_catalogue_is_waited_for_and_said_once() -> None:
    clock, notes = FakeClock(), list[str]()
    action = BusyUntil(clock, free_at=60)
    assert when_free(action, 5, notes.append, clock=clock, sleep=clock.sleep) == "done"
    assert action.calls > 2
    assert notes == ["waiting, 5 min at most: process 7 runs `tutelage run`"]


def test_a_catalogue_that_stays_busy_is_an_error_that_names_the_holder() -> None:
    clock = FakeClock()
    with pytest.raises(CatalogueBusy, match="process 7"):
        when_free(BusyUntil(clock, free_at=1e9), 2, lambda text: None, clock=clock, sleep=clock.sleep)
    assert clock.now == pytest.approx(120, abs=prefect_flows.RETRY_SECONDS)


def test_no_wait_means_one_try() -> None:
    clock = FakeClock()
    action = BusyUntil(clock, free_at=1e9)
    with pytest.raises(CatalogueBusy):
        when_free(action, 0, lambda text: None, clock=clock, sleep=clock.sleep)
    assert action.calls == 1


def test_reporter_logs_steps_and_moves_the_artifact() -> None:
    log, shown = list[str](), list[tuple[float, str]]()
    reporter = FlowReporter(log.append, lambda percent, text: shown.append((percent, text)))
    reporter.step_started("generate", "300 requests")
    reporter.step_progress("generate", 75, 300)
    reporter.step_done("generate", cached=True)
    reporter.note("left out x.md")
    assert log == ["generate …  300 requests", "generate: unchanged", "left out x.md"]
    assert shown == [(0.0, "generate  300 requests"), (25.0, "generate: 75 of 300"), (100.0, "generate: unchanged")]


def test_progress_of_an_empty_step_is_no_division_by_zero() -> None:
    shown = list[float]()
    FlowReporter(lambda text: None, lambda percent, text: shown.append(percent)).step_progress("curate", 0, 0)
    assert shown == [0.0]


def test_report_is_linked_on_the_site_and_as_a_file_where_there_is_none(tmp_path: Path) -> None:
    report = tmp_path / "reports" / "run 1" / "index.html"
    site = "http://127.0.0.1:8123"
    assert report_link(report, tmp_path, site) == f"{site}/run%201/index.html"
    assert report_link(report, tmp_path) == report.as_uri()
    assert report_link(tmp_path / "elsewhere.html", tmp_path, site) == (tmp_path / "elsewhere.html").as_uri()


def test_plain_turns_paths_and_mappings_into_json(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Summary:
        report: Path
        rows: tuple[dict[str, int], ...]

    assert plain(Summary(tmp_path, ({"a": 1},))) == {"report": str(tmp_path), "rows": [{"a": 1}]}


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is signalled on Linux only")
def test_a_flow_ends_when_the_serving_process_is_killed(tmp_path: Path) -> None:
    flow = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from flows.prefect_flows import end_with_server
        end_with_server()
        Path(sys.argv[1]).write_text("ready")
        time.sleep(60)
    """)
    server = textwrap.dedent(f"""
        import os, subprocess, sys, time
        os.environ[{SERVED_BY!r}] = str(os.getpid())
        child = subprocess.Popen([sys.executable, "-c", {flow!r}, sys.argv[1]])
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    ready = tmp_path / "ready"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", server, str(ready)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as serving:
        assert serving.stdout is not None
        pid = int(serving.stdout.readline())
        wait_until(ready.exists, 30)
        serving.kill()
    wait_until(lambda: not is_running(pid), 10)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: object, seconds: float) -> None:
    """Wait until `condition()` holds; fail after `seconds`."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
