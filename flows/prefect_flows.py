"""The flows `pipeline`, `refresh` and `promote`: a few lines each around the functions that the command line calls too.

Prefect brings the form, the schedule, the log and the artifacts. What is done already is known by the catalogue's own
step fingerprints, so no Prefect cache is used; nothing but JSON is kept as a result.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from pydantic import Field

from data_catalog.errors import CatalogueBusy, ConfigError, GateError
from data_catalog.records import Stage
from flows.progress import Reporter
from flows.project import find_project, stages_needing_approval
from flows.server import REPORTS_URL, SERVED_BY

if TYPE_CHECKING:
    from flows.pipeline import RunSummary

ResultT = TypeVar("ResultT")

RETRY_SECONDS = 5.0
"""Between two tries to get the catalogue's run lock."""
PROGRESS_SECONDS = 1.0
"""Between two updates of the progress artifact."""
PR_SET_PDEATHSIG = 1


class AfterPass(StrEnum):
    """What becomes of a model that has passed its gates."""

    NOTHING = "nothing"
    STAGING = "staging"
    PRODUCTION = "production"


class PromotionStage(StrEnum):
    """The stages that a model can be promoted to."""

    STAGING = "staging"
    PRODUCTION = "production"


ConfigPath = Annotated[str, Field(min_length=1)]
WaitMinutes = Annotated[int, Field(ge=0, le=1440)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
ExpectedModel = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(max_length=2000)]


@flow(name="pipeline", persist_result=True, result_serializer="json")
def pipeline(
    config: ConfigPath, promote_to: AfterPass = AfterPass.NOTHING, wait_minutes: WaitMinutes = 30
) -> dict[str, Any]:
    """Documents in, a gated model out; what is unchanged is not done again.

    Args:
        config: The project's configuration file, on the machine that serves this flow.
        promote_to: Where a model goes that has passed all gates. It is registered as a candidate in any case.
        wait_minutes: How long to wait while another run has the project's catalogue.
    """
    from flows.config_file import load_config
    from flows.pipeline import run

    settings = load_config(Path(config))
    if promote_to in settings.promotion.needs_approval:
        raise ConfigError(
            f"`promote_to: {promote_to}`, which this project opens only with an approval (promotion.needs_approval)",
            valid="nobody can approve a model before it is made",
            next_step="run with `promote_to: nothing`, then `tutelage approve` and `tutelage promote` the candidate",
        )
    with flow_reporter() as reporter:
        try:
            summary = when_free(lambda: run(settings, reporter), wait_minutes, reporter.note)
        except GateError as stopped:
            if stopped.summary is not None:
                show_run(stopped.summary, settings.home)
            raise
        show_run(summary, settings.home)
        if promote_to is not AfterPass.NOTHING and summary.model_version is not None:
            from flows.promotion import promote_model

            change = promote_model(settings.home, summary.model_version, Stage(promote_to), actor=run_name())
            reporter.note(change.sentence)
    return plain(summary)


@flow(name="refresh", persist_result=True, result_serializer="json")
def refresh(config: ConfigPath, wait_minutes: WaitMinutes = 30) -> dict[str, Any]:
    """Bring the datasets up to date with the documents: the teacher is asked about what is new or changed only.

    Args:
        config: The project's configuration file, on the machine that serves this flow.
        wait_minutes: How long to wait while another run has the project's catalogue.
    """
    from flows.config_file import load_config
    from flows.pipeline import refresh as refresh_datasets

    settings = load_config(Path(config))
    with flow_reporter() as reporter:
        summary = when_free(lambda: refresh_datasets(settings, reporter), wait_minutes, reporter.note)
        counts = ("added", "changed", "removed", "unchanged", "asked", "cached", "accepted")
        show_tables(
            refresh=[{"what": name, "count": getattr(summary, name)} for name in counts],
            datasets=[{"dataset": name, "version": version} for name, version in summary.datasets.items()],
        )
    return plain(summary)


@flow(name="promote", persist_result=True, result_serializer="json")
def promote(
    config: ConfigPath,
    version: ModelName = Stage.CANDIDATE.value,
    to: PromotionStage = PromotionStage.STAGING,
    override: bool = False,
    reason: Reason = "",
    expect: ExpectedModel = "",
) -> dict[str, Any]:
    """Let a stage name point to a model version whose gates passed and whose bytes are unchanged.

    Where the configuration demands an approval for the stage, give it first: `tutelage approve`.

    Args:
        config: The project's configuration file, on the machine that serves this flow.
        version: A model id, the beginning of one, or a stage: `candidate` is the newest gated model.
        to: The stage that the model is promoted to.
        override: Promote although the gates did not pass. Recorded for ever, together with the reason.
        reason: Why the gates are overridden.
        expect: The model that the stage must point to now, or `none`; empty does not look.
    """
    from flows.promotion import promote_model

    project = find_project(Path(config))
    with flow_reporter() as reporter:
        change = promote_model(
            project.home,
            version,
            Stage(to),
            override_reason=reason if override else None,
            expected=expect or None,
            needs_approval=stages_needing_approval(project),
            actor=run_name(),
        )
        reporter.note(change.sentence)
        show_tables(promotion=[{"what": key, "value": value} for key, value in plain(change).items()])
    return plain(change)


def when_free(
    action: Callable[[], ResultT],
    wait_minutes: float,
    note: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ResultT:
    """Call `action` until it is not refused by a busy catalogue, for `wait_minutes` at most.

    Raises:
        CatalogueBusy: it was still busy after that time; the message names the process that holds it.
    """
    deadline = clock() + wait_minutes * 60
    said = ""
    while True:
        try:
            return action()
        except CatalogueBusy as busy:
            if clock() >= deadline:
                raise
            if busy.message != said:
                note(f"waiting, {wait_minutes} min at most: {busy.message}")
                said = busy.message
        sleep(RETRY_SECONDS)


@contextmanager
def flow_reporter() -> Iterator[Reporter]:
    """Yield a reporter for the flow run that is active; the run ends with the `tutelage serve` that started it."""
    end_with_server()
    board = _ProgressBoard()
    board.start()
    try:
        yield FlowReporter(get_run_logger().info, board.show)
    finally:
        board.close()


class FlowReporter:
    """Reports to the log of a flow run, and to a progress artifact that its page shows.

    Args:
        log: takes one line.
        show: takes a percentage (0 to 100) and a description; must not wait.
    """

    def __init__(self, log: Callable[[str], Any], show: Callable[[float, str], None]) -> None:
        self._log = log
        self._show = show

    def step_started(self, step: str, detail: str = "") -> None:
        """Log the step."""
        self._log(_line(f"{step} …", detail))
        self._show(0.0, _line(step, detail))

    def step_progress(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Move the progress artifact; the log would drown in it."""
        share = done / total if total > 0 else 0.0
        self._show(min(100.0, 100 * share), _line(f"{step}: {done:,} of {total:,}", detail))

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        """Log the step's end."""
        self._log(_line(f"{step}: {'unchanged' if cached else 'done'}", detail))
        self._show(100.0, _line(f"{step}: {'unchanged' if cached else 'done'}", detail))

    def note(self, text: str) -> None:
        """Log it."""
        self._log(text)


class _ProgressBoard:
    """Keeps one progress artifact at the newest state, from a thread of its own.

    The pipeline may report from inside an event loop, where Prefect's calls would turn into coroutines that nobody
    awaits; and a slow API must not slow the work down.
    """

    def __init__(self) -> None:
        self._newest: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._warn = get_run_logger().warning
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def show(self, percent: float, description: str) -> None:
        self._newest.put((percent, description))

    def close(self) -> None:
        self._newest.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        artifact: Any = None
        while True:
            state, ended = self._latest()
            try:
                if state is not None and artifact is None:
                    artifact = create_progress_artifact(state[0], key="progress", description=state[1])
                elif state is not None:
                    update_progress_artifact(artifact, state[0], description=state[1])
            except (httpx.HTTPError, PrefectException) as error:
                self._warn(f"the progress artifact could not be updated: {error}")
            if ended:
                return
            time.sleep(PROGRESS_SECONDS)

    def _latest(self) -> tuple[tuple[float, str] | None, bool]:
        """Wait for a state, then take the newest that is there, and whether it is the last."""
        entries = [self._newest.get()]
        while not self._newest.empty():
            entries.append(self._newest.get())
        states = [entry for entry in entries if entry is not None]
        return (states[-1] if states else None), entries[-1] is None


def end_with_server() -> None:
    """Ask Linux to send SIGTERM to this process when the `tutelage serve` that started it is gone, even by SIGKILL.

    Prefect leaves the flow running then, unseen by any UI, and its next serve would start a second one.
    """
    server = os.environ.get(SERVED_BY)
    if server is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(server):
        os.kill(os.getpid(), signal.SIGTERM)


def show_run(summary: RunSummary, home: Path) -> None:
    """Publish what became of the items, what the gates said, and the report."""
    show_tables(funnel=summary.funnel, gates=summary.gates)
    create_link_artifact(
        report_link(summary.report, home), link_text="Open the report", key="report", description=summary.headline
    )


def show_tables(**tables: Sequence[Any]) -> None:
    """Publish each non-empty table as an artifact under its name."""
    for name, rows in tables.items():
        if rows:
            create_table_artifact([plain(row) for row in rows], key=re.sub(r"[^a-z0-9]+", "-", name.lower()))


def report_link(report: Path, home: Path, site: str | None = None) -> str:
    """Return the address of a report: below the report site for one in `<home>/reports`, else a `file:` URL."""
    site = site or os.environ.get(REPORTS_URL)
    directory = (home / "reports").resolve()
    if site and report.resolve().is_relative_to(directory):
        return f"{site}/{quote(report.resolve().relative_to(directory).as_posix())}"
    return report.resolve().as_uri()


def run_name() -> str:
    """Return who acts, for the registry's log: the flow run's name as the UI shows it."""
    from prefect.runtime import flow_run

    return f"prefect:{flow_run.get_name()}"


def plain(value: Any) -> dict[str, Any]:
    """Return a summary (dataclass, pydantic model or mapping) as what JSON and an artifact table can hold."""
    from pydantic import TypeAdapter

    if isinstance(value, Mapping):
        fields: Any = dict(value)
    elif hasattr(value, "model_dump"):
        fields = value.model_dump(mode="json")
    else:
        fields = asdict(value)
    result: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(fields, mode="json")
    return result


def _line(text: str, detail: str) -> str:
    return f"{text}  {detail}" if detail else text
