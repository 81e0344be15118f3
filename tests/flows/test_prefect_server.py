"""`tutelage serve` for real: one Prefect server, runs through its API, cancelling, and the end of it all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling, Running

from data_catalog.catalogue import Catalogue
from data_catalog.records import Stage
from data_catalog.registry import Registry
from flows.vllm import free_port
from tests.flows.projects import write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ENDED = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}
PROJECT = "test"
LENIENT = "[{suite: gold, require: not_worse, margin: 1.0}]"


@dataclass(frozen=True)
class Served:
    """A running `tutelage serve`."""

    client: SyncPrefectClient
    api: str
    process: subprocess.Popen[str]
    config: Path
    home: Path
    output: Path

    def start(self, name: str, **parameters: Any) -> Any:
        """Start a run as the UI's form does; return it."""
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def state(self, run: Any) -> Any:
        """Return the run's state now."""
        return self.client.read_flow_run(run.id).state

    def artifacts(self, run: Any) -> dict[str, Any]:
        """Return the run's artifacts by key."""
        query = {"flow_runs": {"id": {"any_": [str(run.id)]}}}
        found = self.client.request("POST", "/artifacts/filter", json=query).json()
        return {artifact["key"]: artifact for artifact in found}

    def log(self, run: Any) -> str:
        """Return the run's log."""
        query = {"logs": {"flow_run_id": {"any_": [str(run.id)]}}}
        return "\n".join(line["message"] for line in self.client.request("POST", "/logs/filter", json=query).json())

    def end(self, run: Any, seconds: float = 120) -> Any:
        """Wait for the run's end and return its state."""
        wait_until(lambda: self.state(run).type in ENDED, seconds)
        return self.state(run)


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedServer]:
    with ScriptedServer(ScriptedTeacher().answer) as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, teacher: ScriptedServer) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    config = write_project(directory, teacher.base_url, gate=LENIENT, count=3)
    config.write_text(config.read_text() + "schedule: {refresh_cron: '0 3 * * *', timezone: Asia/Shanghai}\n")
    port = free_port()
    output = directory / "serve.out"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", str(config), "--port", str(port)],
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
    try:
        wait_until(lambda: "Ctrl-C ends" in output.read_text() or process.poll() is not None, 180)
        assert process.poll() is None, output.read_text()
        api = f"http://127.0.0.1:{port}/api"
        with SyncPrefectClient(api) as client:
            yield Served(client, api, process, config, directory / ".tutelage", output)
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Return the environment of a user who has set nothing of Prefect's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie doesn't."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_three_deployments_with_form_limit_and_schedule(served: Served) -> None:
    deployments = {
        name: served.client.read_deployment_by_name(f"{name}/{PROJECT}") for name in ("pipeline", "refresh", "promote")
    }
    for deployment in deployments.values():
        assert deployment.parameters["config"] == str(served.config)
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.enforce_parameter_schema
    schedules = {name: deployment.schedules for name, deployment in deployments.items()}
    assert (schedules["pipeline"], schedules["promote"]) == ([], [])
    (nightly,) = schedules["refresh"]
    assert isinstance(nightly.schedule, CronSchedule)
    assert (nightly.schedule.cron, nightly.schedule.timezone) == ("0 3 * * *", "Asia/Shanghai")


def test_a_form_out_of_bounds_is_refused_before_anything_starts(served: Served) -> None:
    for parameters in ({"to": "archived"}, {"version": ""}):
        with pytest.raises(PrefectHTTPStatusError) as refused:
            served.start(f"promote/{PROJECT}", **parameters)
        assert refused.value.response.status_code == 409


def test_the_zombie_automation_exists_once(served: Served) -> None:
    found = served.client.request("POST", "/automations/filter", json={}).json()
    assert [entry["name"] for entry in found] == ["tutelage: runs without a heartbeat have crashed"]


def test_another_site_can_not_start_a_run(served: Served) -> None:
    import httpx

    deployment = served.client.read_deployment_by_name(f"promote/{PROJECT}")
    answer = httpx.post(
        f"{served.api}/deployments/{deployment.id}/create_flow_run",
        json={},
        headers={"Origin": "http://evil.example"},
    )
    assert answer.status_code == 403


def test_a_failed_run_says_why_in_its_state(served: Served) -> None:
    state = served.end(served.start(f"promote/{PROJECT}"))
    assert state.type is StateType.FAILED
    assert "candidate" in state.message


def test_a_refresh_waits_for_the_run_that_has_the_catalogue_and_then_finishes(
    served: Served, teacher: ScriptedServer
) -> None:
    with Catalogue(served.home).run_lock("a test"):
        run = served.start(f"refresh/{PROJECT}", wait_minutes=5)
        wait_until(lambda: "waiting, 5 min at most: another run of the project" in served.log(run), 120)
        assert served.state(run).type is StateType.RUNNING
        assert not teacher.received
    state = served.end(run, 300)
    assert state.type is StateType.COMPLETED, state.message
    assert {"progress", "refresh", "datasets"} <= served.artifacts(run).keys()
    counts = {row["what"]: row["count"] for row in json.loads(served.artifacts(run)["refresh"]["data"])}
    assert (counts["added"], counts["removed"]) == (3, 0)
    assert counts["asked"] == len(teacher.received) > 0


def test_a_pipeline_run_shows_funnel_gates_and_report_and_its_model_can_be_promoted(served: Served) -> None:
    run = served.start(f"pipeline/{PROJECT}")
    state = served.end(run, 800)
    assert state.type is StateType.COMPLETED, state.message
    artifacts = served.artifacts(run)
    assert {"funnel", "gates", "report", "progress"} <= artifacts.keys()
    link = re.search(r"\((http://127\.0\.0\.1:\d+/[^)]+)\)", artifacts["report"]["data"])
    assert link, artifacts["report"]["data"]
    with urllib.request.urlopen(link[1]) as report:
        assert b"<html" in report.read()
    candidate = Registry(Catalogue(served.home)).resolve("candidate")
    promotion = served.start(f"promote/{PROJECT}", to="staging")
    assert served.end(promotion).type is StateType.COMPLETED
    (event,) = Registry(Catalogue(served.home)).history(Stage.STAGING)
    assert event.model_id == candidate.id
    assert event.actor == f"prefect:{promotion.name}"


def test_runs_that_an_earlier_serve_left_are_marked_as_crashed(served: Served) -> None:
    deployment = served.client.read_deployment_by_name(f"refresh/{PROJECT}")
    run = served.client.create_flow_run_from_deployment(deployment.id, state=Running())
    script = f"from flows.server import crash_left_over_runs; print(crash_left_over_runs({PROJECT!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment(), "PREFECT_API_URL": served.api},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) >= 1
    assert served.state(run).type is StateType.CRASHED


@pytest.fixture
def sleeping(served: Served, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the sleeping flow on the same server."""
    script = str(Path(__file__).with_name("sleeping_flow.py"))
    env = {**environment(), "PREFECT_API_URL": served.api, "PREFECT_HOME": str(tmp_path / "prefect")}
    with subprocess.Popen([sys.executable, script, str(tmp_path)], env=env, cwd=ROOT) as process:
        yield process
        process.kill()


def start_sleeping(served: Served, tmp_path: Path) -> tuple[Any, list[int]]:
    """Start the sleeping flow; return its run and the pids of flow's watchdog, child and grandchild."""

    def deployed() -> bool:
        try:
            return bool(served.client.read_deployment_by_name("sleeping/test").parameters["home"] == str(tmp_path))
        except ObjectNotFound:
            return False

    wait_until(deployed, 120)
    run = served.start("sleeping/test")
    pids = tmp_path / "pids"
    wait_until(pids.exists, 90)
    return run, [int(pid) for pid in pids.read_text().split()]


def test_cancelling_a_run_leaves_no_process_behind(
    served: Served, sleeping: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    run, pids = start_sleeping(served, tmp_path)
    flow_process = psutil.Process(pids[0]).ppid()
    assert all(map(alive, [flow_process, *pids]))
    served.client.set_flow_run_state(run.id, Cancelling())
    assert served.end(run, 60).type is StateType.CANCELLED
    wait_until(lambda: not any(map(alive, [flow_process, *pids])), 15)
    assert list((tmp_path / "run").glob("*.json")) == []


def test_killing_the_flow_process_leaves_no_process_behind(
    served: Served, sleeping: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    run, pids = start_sleeping(served, tmp_path)
    os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)
    assert served.end(run, 60).type is StateType.CRASHED
    wait_until(lambda: not any(map(alive, pids)), 15)


def test_a_second_serve_of_the_project_is_refused(served: Served) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "flows.cli", "serve", str(served.config), "--port", str(free_port())],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert second.returncode == 10
    assert f"served already, by process {served.process.pid}" in second.stderr


def test_sigterm_ends_the_server_and_everything_it_started(served: Served) -> None:
    descendants = psutil.Process(served.process.pid).children(recursive=True)
    assert any("prefect" in " ".join(child.cmdline()) for child in descendants)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0, served.output.read_text()
    assert "never awaited" not in served.output.read_text()
    wait_until(lambda: not any(alive(child.pid) for child in descendants), 15)
    assert list((served.home / "run").glob("*.json")) == []
