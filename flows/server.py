"""`tutelage serve`: a Prefect server for one project, its three deployments, and a small site for its reports.

The server is Prefect's own, started on loopback with its database in `<home>/prefect`; with PREFECT_API_URL set, that
server is used instead. Prefect reads its settings when it is imported, so nothing here imports it at the top: the
environment is set first.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import http.client
import http.server
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError, MachineError
from flows.processes import ManagedProcess

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Schedule

    from flows.config import Config, ScheduleSpec

REPORTS_URL = "TUTELAGE_REPORTS_URL"
"""Environment variable: where the report site answers; flow runs put it into their link to the report."""
SERVED_BY = "TUTELAGE_SERVED_BY"
"""Environment variable: process id of `tutelage serve`; a flow run ends with it."""
START_TIMEOUT = 180.0
"""Seconds; a first start migrates Prefect's own database, which takes 15 s on two cores."""
POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 30
"""The shortest that Prefect accepts."""
ZOMBIE_SECONDS = 300
"""A run whose last heartbeat is older than this is marked as crashed. Ten heartbeats: a starved machine may miss some,
and taking a living run for a dead one costs more than noticing a dead one late."""
LEASE_SECONDS = 3600
"""The longest that Prefect accepts. A run that can't renew its place in time is ended, be the API only slow."""
ZOMBIE_AUTOMATION = "tutelage: runs without a heartbeat have crashed"


@dataclass(frozen=True)
class Address:
    """Where a Prefect server answers, and whether it is ours to end."""

    api: str
    own: bool

    @property
    def ui(self) -> str:
        """The address for a browser."""
        return self.api.removesuffix("/api")


def prefect_settings(home: Path, address: Address) -> dict[str, str]:
    """Return the environment variables under which Prefect works for the project in `home`.

    A server of our own keeps everything under `<home>/prefect`, tells nobody outside, and refuses requests that another
    web page sends (CORS to nobody, CSRF tokens on): a promotion must not be one click away from any site on the web.
    """
    settings = {
        "PREFECT_API_URL": address.api,
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "prefect" / "results"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    if address.own:
        settings |= {
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "prefect" / "ui"),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": str(LEASE_SECONDS),
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address.ui,
        }
        # Both spellings are read, by different libraries; a proxy would never reach this machine's loopback.
        direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
        settings |= {"NO_PROXY": direct, "no_proxy": direct}
    return settings


def prefect_address(host: str, port: int, environment: Mapping[str, str] = os.environ) -> Address:
    """Return the server that PREFECT_API_URL names, or else the one to start on `host`:`port`."""
    given = environment.get("PREFECT_API_URL", "").rstrip("/")
    return Address(given, own=False) if given else Address(f"http://{host}:{port}/api", own=True)


def check_port(host: str, port: int) -> None:
    """Make sure that a server can be started on `host`:`port`.

    Raises:
        MachineError: the port is taken (and perhaps by a Prefect server), or the host is none of this machine's.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if _get(f"http://{host}:{port}/api/health") is not None:
            raise MachineError(
                f"a Prefect server already runs on {host}:{port}",
                next_step=f"use it with PREFECT_API_URL=http://{host}:{port}/api, or start another with --port N",
            ) from error
        raise MachineError(
            f"port {port} on {host} can't be used: {error.strerror}",
            valid="a free port of this machine",
            next_step="give another with --port N, or end the program that has it (`ss -ltnp` names it)",
        ) from error


def is_running(address: Address) -> bool:
    """Return whether the Prefect API answers a call that needs its database."""
    return _get(f"{address.api}/csrf-token?client=tutelage") is not None


@contextmanager
def prefect_server(address: Address, home: Path) -> Iterator[Address]:
    """Start the Prefect server of `address` and end it with the caller; one that isn't ours is only asked.

    Raises:
        MachineError: the port is taken, the server ended or gave no answer, or PREFECT_API_URL leads nowhere.
    """
    if not address.own:
        if not is_running(address):
            raise MachineError(
                f"no Prefect server answers at PREFECT_API_URL={address.api}",
                next_step="start it with `prefect server start`, or unset PREFECT_API_URL to have one started here",
            )
        yield address
        return
    host, _, port = address.ui.removeprefix("http://").rpartition(":")
    check_port(host, int(port))
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port]
    log = home / "logs" / "prefect-server.log"
    with ManagedProcess(argv, home=home, log=log, env=prefect_settings(home, address)) as process:
        _wait_until_running(process, address)
        yield address


def _wait_until_running(process: ManagedProcess, address: Address) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_running(address):
        if process.returncode is not None:
            raise MachineError(
                f"the Prefect server ended with status {process.returncode}:\n{process.log_tail()}",
                next_step=f"`tutelage doctor` checks the installation; the whole log is {process.log}",
            )
        if time.monotonic() > deadline:
            raise MachineError(
                f"the Prefect server gave no answer within {START_TIMEOUT:.0f} s:\n{process.log_tail()}",
                next_step=f"look into {process.log}",
            )
        time.sleep(POLL_SECONDS)


def _get(url: str) -> bytes | None:
    """Return what a GET brings (an error status too: somebody answered), None when nobody does."""
    try:
        # The address is our own, or what the user gave as PREFECT_API_URL.
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        # Servers without CSRF protection answer the token route with 422: the API is up all the same.
        return error.read() if error.code == 422 else None
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException):
        return None


@contextmanager
def serve_lock(home: Path, note: str) -> Iterator[None]:
    """Hold the one place of `tutelage serve` for this project; `note` tells others where it is.

    Raises:
        MachineError: another `tutelage serve` of this project runs; the message says where.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "serve.lock"
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(path)
            raise MachineError(
                f"this project is served already, by process {holder.get('pid')}: {holder.get('note')}",
                next_step=f"use that one, or end it with `kill {holder.get('pid')}`",
            ) from error
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "note": note}))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return {}  # it took the lock a moment ago and has not written yet
    return holder


class _ReportHandler(http.server.SimpleHTTPRequestHandler):
    """Files of one directory, without a log line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def end_headers(self) -> None:
        """Forbid what a report never needs: it is one self-contained file."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


@contextmanager
def report_site(directory: Path, host: str) -> Iterator[str]:
    """Show the files of `directory` on a free port and yield the address.

    Browsers refuse to follow a link from an `http:` page to a `file:` one, so the UI's link to a report needs this.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_ReportHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer((host, 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever, name="report-site", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join()


def deployments(config_path: Path, config: Config) -> list[RunnerDeployment]:
    """Return the three deployments of a project, all named after it.

    Raises:
        ConfigError: the schedule can't be read.
    """
    from flows.prefect_flows import pipeline, promote, refresh

    schedule = cron(config.schedule)
    served = []
    for flow in (pipeline, refresh, promote):
        deployment: Any = flow.to_deployment(
            name=config.project,
            parameters={"config": str(config_path)},
            schedules=[schedule] if schedule is not None and flow is refresh else [],
            concurrency_limit=1,
            tags=["tutelage"],
        )
        served.append(deployment)
    return served


def cron(spec: ScheduleSpec) -> Schedule | None:
    """Return the schedule of the `refresh` flow, None when the configuration has none.

    Raises:
        ConfigError: not a cron expression of five fields, or not a time zone.
    """
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.schedules import Cron

    if spec.refresh_cron is None:
        return None
    try:
        # The server would refuse a bad one only after everything has been started.
        CronSchedule(cron=spec.refresh_cron, timezone=spec.timezone)
    except ValueError as error:
        raise ConfigError(
            f"schedule: `{spec.refresh_cron}` in time zone `{spec.timezone}` can't be read",
            valid="five cron fields such as `0 3 * * *`, and a zone such as `Europe/Berlin`",
            next_step="edit the `schedule` section",
        ) from error
    return Cron(spec.refresh_cron, timezone=spec.timezone, slug="refresh")


def ensure_zombie_automation() -> None:
    """Have the server mark runs as crashed when their heartbeat stops; self-hosted servers don't by themselves."""
    from datetime import timedelta

    from prefect.automations import Automation
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    query = {"automations": {"name": {"any_": [ZOMBIE_AUTOMATION]}}}
    with get_client(sync_client=True) as client:
        if client.request("POST", "/automations/filter", json=query).json():
            return
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat"} | ended,
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=ZOMBIE_SECONDS),
    )
    action = ChangeFlowRunState(
        name="Crashed", state=StateType.CRASHED, message="no heartbeat: its process is gone", force=False
    )
    Automation(name=ZOMBIE_AUTOMATION, trigger=trigger, actions=[action]).create()


def crash_left_over_runs(project: str) -> int:
    """Mark the runs that an earlier `serve` of this project left unfinished as crashed; return how many.

    Only called with `serve_lock` held on a server of our own: then no process can be behind them. Prefect would show
    them as running for ever, and they would keep the place of the next run.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    unfinished = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[project])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))),
        )
        for run in runs:
            state: Any = Crashed(message="`tutelage serve` ended while this ran; run it again, what was done is kept")
            client.set_flow_run_state(run.id, state, force=True)
    return len(runs)


def serve_project(config_path: Path, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the deployments of one project until SIGINT or SIGTERM; then end everything that was started.

    Raises:
        ConfigError: the configuration or its schedule is wrong.
        MachineError: no port, no Prefect server, or the project is served already.
    """
    from flows.config_file import load_config

    config_path = config_path.resolve()
    config = load_config(config_path)
    address = prefect_address(host, port)
    os.environ.update(prefect_settings(config.home, address))
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve_lock(config.home, f"UI at {address.ui}"))
        served = deployments(config_path, config)
        say(f"Prefect     {'starting a server' if address.own else 'using the server'} at {address.ui}")
        stack.enter_context(prefect_server(address, config.home))
        reports = stack.enter_context(report_site(config.home / "reports", "127.0.0.1"))
        os.environ.update({REPORTS_URL: reports, SERVED_BY: str(os.getpid())})
        ensure_zombie_automation()
        if address.own:
            left = crash_left_over_runs(config.project)
            if left:
                say(f"Runs        {left} left unfinished by an earlier serve: marked as crashed")
        _serve(served, on_ready=lambda: say(_guide(config, address, reports)))


def _serve(served: list[RunnerDeployment], on_ready: Callable[[], None]) -> None:
    """Do what `prefect.serve` does, and say so only once the deployments are known to the server."""
    from prefect.runner import Runner

    class EndingRunner(Runner):
        """A runner that takes SIGTERM for Ctrl-C: Prefect's own handler (3.7) never awaits what it starts."""

        async def start(self, run_once: bool = False, webserver: bool | None = None) -> None:
            self.main = asyncio.current_task()
            await super().start(run_once, webserver)

        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            assert self.main is not None, "the handler is installed by start()"
            # Not by raising SIGINT, which is ignored where a shell script started us in the background.
            self.main.get_loop().call_soon_threadsafe(self.main.cancel)

    # One run of each flow may be active; the catalogue's run lock lets one of them work and makes the others wait.
    runner = EndingRunner(limit=len(served), pause_on_shutdown=False)
    for deployment in served:
        runner.add_deployment(deployment)
    on_ready()
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(runner.start())


def _guide(config: Config, address: Address, reports: str) -> str:
    spec = config.schedule
    when = f"`{spec.refresh_cron}` ({spec.timezone})" if spec.refresh_cron else "none: set schedule.refresh_cron"
    return "\n".join(
        [
            f"UI          {address.ui}/deployments",
            "            pipeline, refresh and promote: choose one, Run > Custom run shows its form",
            f"Reports     {reports}",
            f"Refresh     {when}",
            f"Catalogue   {config.home}: one run at a time, others wait",
            "Ctrl-C ends the server and every run; what was done is kept.",
        ]
    )
