"""What all tests share: a quiet, offline environment and nothing of the user's own."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from typing import Any

from hypothesis import settings

# Set before anything is imported: these libraries read their environment once. Child processes inherit it.
_HOME = tempfile.TemporaryDirectory(prefix="tutelage-tests-")
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_HOME": f"{_HOME.name}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PREFECT_HOME": f"{_HOME.name}/prefect",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": f"{_HOME.name}/prefect/results",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)

# Several test processes at once (pytest-xdist): each keeps to cores of its own, and so do its children. Threads of
# torch wait for one another, so that two processes that share two cores take far longer than one after the other.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    own = cores[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, own or cores)

# Deadlines measure the machine rather than the code, and two cores are often shared. A change is judged by the same
# examples as the one before it; `pytest --hypothesis-profile=searching` looks for new ones.
settings.register_profile("searching", deadline=None, print_blob=True)
settings.register_profile("tutelage", settings.get_profile("searching"), derandomize=True)
settings.load_profile("tutelage")

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Let no test of this process reach further than this machine."""
    if event != "socket.connect":
        return
    connection, address = arguments
    internet = connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type & socket.SOCK_STREAM
    if internet and address[0] not in _LOOPBACK:
        raise PermissionError(f"tests stay on this machine; something wanted to connect to {address[0]}:{address[1]}")


sys.addaudithook(_refuse_the_network)
