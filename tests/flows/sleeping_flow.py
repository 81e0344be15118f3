"""A served flow with a child that never ends by itself: what `test_prefect_server.py` cancels and kills.

Run as `python tests/flows/sleeping_flow.py HOME` with PREFECT_API_URL set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, serve

from flows.prefect_flows import flow_reporter
from flows.processes import ManagedProcess

# The child has a child of its own, as a vLLM server has.
SLEEP = """
import os, pathlib, subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
target = pathlib.Path(sys.argv[1])
draft = target.with_suffix(".draft")
draft.write_text(f"{os.getppid()} {os.getpid()} {inner.pid}")
draft.rename(target)
time.sleep(600)
"""


@flow(name="sleeping", persist_result=False)
def sleeping(home: str) -> None:
    """Start the child, write the process ids, and wait for it."""
    place = Path(home)
    argv = [sys.executable, "-c", SLEEP, str(place / "pids")]
    with flow_reporter() as reporter, ManagedProcess(argv, home=place, log=place / "sleep.log") as child:
        reporter.step_started("sleep")
        child.wait()


if __name__ == "__main__":
    deployment: Any = sleeping.to_deployment("test", parameters={"home": sys.argv[1]})
    serve(deployment, print_starting_message=False)
