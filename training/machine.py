"""How much memory this process may still take, and how fast it computes. Light: no torch."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import psutil

_UNLIMITED = 2**60
"""Kernels write the absence of a limit as a number near 2^63."""
_PRODUCT = 1024


def free_memory(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that are free: what the kernel calls available, or less where a control group allows less."""
    free = int(psutil.virtual_memory().available)
    for folder, limit, used in _control_groups(root, groups):
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None and most < _UNLIMITED:
            free = min(free, max(0, most - now))
    return free


def _control_groups(root: Path, groups: Path) -> list[tuple[Path, str, str]]:
    """Return the folders that may limit this process, of either version of control groups, with their files' names."""
    found = []
    lines = groups.read_text().splitlines() if groups.is_file() else []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds not in ("", "memory"):
            continue
        base = root / "memory" if kinds else root
        limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        inside = base / path.strip("/")
        found += [(folder, limit, used) for folder in (inside, *inside.parents) if folder.is_relative_to(base)]
    return found


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None


def own_memory() -> int:
    """Return the bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """Return the most bytes that this process has held since it was started."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else own_memory()


def product_speed(repeats: int = 5) -> float:
    """Return the floating-point operations per second of a large product in float32: the fastest of some."""
    matrix = np.ones((_PRODUCT, _PRODUCT), dtype=np.float32)
    best = min(_timed(matrix) for _ in range(repeats + 1))
    return float(2 * _PRODUCT**3 / best)


def _timed(matrix: np.ndarray) -> float:
    began = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - began
