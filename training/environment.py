"""The environment variables of a training process. Light: imports nothing heavy, so that a caller can use it."""

from __future__ import annotations

import os

# Each of these is read once, when a library or the C runtime starts: set by the caller, before the process exists.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "PYTHONUNBUFFERED": "1",
}
# glibc gives large buffers back to the kernel at every step; the page faults that follow cost up to half of a training
# step. Never using mmap and never trimming keeps them.
_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
# numpy and pyarrow start threads on import, which a process that forks (`training.host`) must not have.
_NO_IDLE_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "TOKENIZERS_PARALLELISM": "false",
}


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment() -> dict[str, str]:
    """Return the variables that `training.worker` and `training.host` are started with, beside the caller's own.

    No network, no telemetry, no progress bars, malloc that keeps its memory, as many OpenMP threads as cores.
    """
    return {
        **_OFFLINE,
        **_QUIET,
        **_MALLOC,
        **_NO_IDLE_THREADS,
        "OMP_NUM_THREADS": str(usable_cores()),
        # Counting GPUs through NVML keeps CUDA out of the process that forks.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # Needed by cuBLAS to give the same result twice; without effect on a CPU.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def apply_late(environment: dict[str, str] | None = None) -> None:
    """Set what the caller did not: for a worker started by hand. Malloc settings come too late here and have no effect.

    The network stays off whatever the caller set.
    """
    for name, value in (environment or worker_environment()).items():
        os.environ.setdefault(name, value)
    os.environ.update(_OFFLINE)
