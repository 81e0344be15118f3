"""How much memory a GPU still has, and how fast it computes, asked of CUDA. Heavy: imports torch."""

from __future__ import annotations

import torch

_PRODUCT = 8192


def gpu_memory() -> int | None:
    """Return the free bytes of the GPU that a training would take; None where torch has none to use."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def gpu_speed(repeats: int = 5) -> float:
    """Return the floating-point operations per second of a large product in bfloat16: the fastest of some."""
    matrix = torch.ones((_PRODUCT, _PRODUCT), dtype=torch.bfloat16, device="cuda")
    milliseconds = min(_timed(matrix) for _ in range(repeats + 1))
    return 2 * _PRODUCT**3 / (milliseconds / 1000)


def _timed(matrix: torch.Tensor) -> float:
    """Return the milliseconds of one product, by the GPU's own clock."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    matrix @ matrix
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended))
