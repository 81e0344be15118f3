"""Managed processes end with their owner, however it ends, and take their own children along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.processes import ManagedProcess, end_orphan, orphans

REPOSITORY = Path(__file__).resolve().parents[2]
SLEEPER = (
    "import subprocess, sys, time; p = subprocess.Popen(['sleep', '300']); print(p.pid, flush=True); time.sleep(300)"
)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def sleeper(home: Path) -> ManagedProcess:
    return ManagedProcess([sys.executable, "-c", SLEEPER], home=home, log=home / "log", pipe_output=True, grace=2)


def test_stopping_ends_the_child_and_its_children(tmp_path: Path) -> None:
    with sleeper(tmp_path) as process:
        grandchild = int(next(process.lines()))
        assert alive(grandchild)
        assert list((tmp_path / "run").glob("*.json"))
    assert gone(grandchild)
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    process = ManagedProcess(
        [sys.executable, "-c", code], home=tmp_path, log=tmp_path / "log", pipe_output=True, grace=0.3
    )
    with process:
        next(process.lines())
    assert process.returncode == 128 + signal.SIGKILL


def test_exit_status_and_log_come_back(tmp_path: Path) -> None:
    code = "import sys; print('trouble', file=sys.stderr); sys.exit(3)"
    with ManagedProcess([sys.executable, "-c", code], home=tmp_path, log=tmp_path / "log") as process:
        assert process.wait(20) == 3
        assert "trouble" in process.log_tail()


def test_a_program_that_does_not_exist_ends_with_127_and_says_so(tmp_path: Path) -> None:
    with ManagedProcess(["/no/such/program"], home=tmp_path, log=tmp_path / "log") as process:
        assert process.wait(20) == 127
        assert "can't start /no/such/program" in process.log_tail()


def test_a_paused_process_makes_no_progress_and_can_still_be_ended(tmp_path: Path) -> None:
    code = "import time\nwhile True:\n    print(time.time(), flush=True)\n    time.sleep(0.01)"
    with ManagedProcess([sys.executable, "-c", code], home=tmp_path, log=tmp_path / "log", grace=2) as process:
        while not (tmp_path / "log").read_text():
            time.sleep(0.01)
        process.pause()
        time.sleep(0.1)
        size = (tmp_path / "log").stat().st_size
        time.sleep(0.2)
        assert (tmp_path / "log").stat().st_size == size
        process.resume()
        deadline = time.monotonic() + 5
        while (tmp_path / "log").stat().st_size == size and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "log").stat().st_size > size
        process.pause()
    assert process.returncode is not None


OWNER = """
import sys, time
from pathlib import Path
from flows.processes import ManagedProcess
home = Path(sys.argv[1])
with ManagedProcess([sys.executable, "-c", sys.argv[2]], home=home, log=home / "log", pipe_output=True) as process:
    print(next(process.lines()), flush=True)
    time.sleep(300)
"""


def test_sigkill_of_the_owner_ends_everything(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), SLEEPER], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert owner.stdout is not None
    grandchild = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="kills the watchdog itself; only Linux tells the child")
def test_orphans_are_found_and_ended_even_when_the_watchdog_was_killed_too(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), code], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert owner.stdout is not None
    owner.stdout.readline()
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    for pid in (*map(int, children), owner.pid):
        os.kill(pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    (orphan,) = orphans(tmp_path)
    assert alive(orphan.group)
    end_orphan(orphan, grace=0.2)
    assert gone(orphan.group)
    assert orphans(tmp_path) == []
