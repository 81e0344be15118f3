"""Jobs forked from one process that has the libraries: the same results, no silent losses, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_catalog.errors import Interrupted, TrainingError
from data_catalog.records import Message, Request, Sampling
from flows import workers
from flows.workers import WorkerHost
from tests.flows.projects import STUDENT

pytestmark = pytest.mark.slow


def requests(*questions: str) -> list[Request]:
    return [
        Request(
            model="student",
            messages=(Message(role="user", content=question),),
            sampling=Sampling(temperature=0.0, max_tokens=8),
        )
        for question in questions
    ]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WorkerHost]:
    with WorkerHost(tmp_path) as host:
        yield host


def host_process() -> psutil.Process:
    """Return the host, whose parent is the watchdog; a job has the same command line, and the host as parent."""
    hosts = {child.pid: child for child in psutil.Process().children(recursive=True) if _is_host(child)}
    (found,) = [process for process in hosts.values() if process.ppid() not in hosts]
    return found


def _is_host(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:3] == ["-m", "training.host"]
    except psutil.NoSuchProcess:
        return False  # it ended between being listed and being looked at, or nobody has waited for it yet


def test_forked_jobs_answer_as_processes_of_their_own_do_and_import_once(tmp_path: Path, host: WorkerHost) -> None:
    asked = requests("Who designed the Brolmat 41?", "What does the Brolmat 41 weigh?")
    apart = workers.complete(STUDENT, "one", asked, home=tmp_path / "apart")
    events: list[Mapping[str, Any]] = []
    forked = workers.complete(STUDENT, "two", asked, home=tmp_path, host=host, on_event=events.append)
    assert [answer.text for answer in forked] == [answer.text for answer in apart]
    first = host_process().pid
    again = workers.complete(STUDENT, "three", asked, home=tmp_path, host=host, on_event=events.append)
    assert [answer.text for answer in again] == [answer.text for answer in apart]
    assert host_process().pid == first
    imported = [float(event["seconds"]) for event in events if event["event"] == "imported"]
    assert len(imported) == 2
    assert max(imported) < 1, "the host has imported everything"


def test_a_job_that_fails_says_why_and_the_host_goes_on(tmp_path: Path, host: WorkerHost) -> None:
    with pytest.raises(TrainingError):
        workers.complete(tmp_path / "no-model", "x", requests("?"), home=tmp_path, host=host)
    assert len(workers.complete(STUDENT, "y", requests("?"), home=tmp_path, host=host)) == 1


def test_a_killed_host_is_told_with_the_log_and_replaced(tmp_path: Path, host: WorkerHost) -> None:
    workers.complete(STUDENT, "a", requests("?"), home=tmp_path, host=host)
    host_process().kill()
    assert len(workers.complete(STUDENT, "b", requests("?"), home=tmp_path, host=host)) == 1

    killed: list[int] = []

    def kill(event: Mapping[str, Any]) -> None:
        if not killed:  # what it had said before is still read, and told
            killed.append(host_process().pid)
            os.kill(killed[0], signal.SIGKILL)

    # The job hears of its host's end: it stops as it does when asked to, or is ended before it can say so.
    with pytest.raises((TrainingError, Interrupted), match=r"left no result|asked to stop"):
        workers.complete(STUDENT, "c", requests("?"), home=tmp_path, host=host, on_event=kill)
    assert killed
    assert len(workers.complete(STUDENT, "c", requests("?"), home=tmp_path, host=host)) == 1


def test_an_error_of_the_caller_ends_the_job_and_nothing_is_left_behind(tmp_path: Path, host: WorkerHost) -> None:
    def fail(event: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.complete(STUDENT, "d", requests("?"), home=tmp_path, host=host, on_event=fail)
    deadline = time.monotonic() + 20
    while any(map(_is_host, psutil.Process().children(recursive=True))):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_no_host_can_fork_each_job_has_a_process_of_its_own(
    tmp_path: Path, host: WorkerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    # A library that starts a thread when it is imported: the host must not fork, and the job is done all the same.
    (shim / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{shim}{os.pathsep}{Path(__file__).parents[2]}")
    events: list[Mapping[str, Any]] = []
    done = workers.complete(STUDENT, "e", requests("?"), home=tmp_path, host=host, on_event=events.append)
    assert len(done) == 1
    assert [event for event in events if event["event"] == "imported"]
    assert not json.dumps(events).count('"refused"')
