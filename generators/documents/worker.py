"""The process that parses files: a fork for each, with limits of its own, so that a bad one costs only itself.

    python -m generators.documents.worker ORDER      # ORDER is a JSON file (results.Order); answers go to stdout

Every parser is imported before the first fork, so that a fork starts at once. A fork may use so much memory beyond what
the imports take and so many processor seconds; what stands still for as long is killed. The clock alone says nothing:
where other work has the processors, a small file takes minutes. Nothing but one answer a line is written to standard
output; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path, PurePath
from typing import TextIO
from zipfile import ZipInfo

import psutil

from generators.documents import archive
from generators.documents.files import bytes_of
from generators.documents.formats import format_of, is_zip
from generators.documents.results import Answer, Job, Options, Order, Parsed, PartlyRefused, Refusal, Refused

_MIB = 1 << 20
_BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
_FORK = multiprocessing.get_context("fork")
_READ, _REFUSED = b"+", b"-"


def answers(order: Order) -> Iterator[Answer]:
    """Yield what becomes of every file, in order: at least one answer for each, the last of each marked."""
    _import_parsers(job.path for job in order.jobs)
    for number, job in enumerate(order.jobs):
        try:
            yield from _answers_of(number, job, order.options)
        except Refused as refused:
            yield Answer(number, refusals=(Refusal("", str(refused)),))


def _answers_of(number: int, job: Job, options: Options) -> Iterator[Answer]:
    content = bytes_of(Path(job.path), Path(job.folder) if job.folder else None, options.max_bytes)
    if is_zip(job.path):
        yield from _answers_of_zip(number, content, options)
        return
    found = in_fork(lambda: _parse(number, content, job.path, options), options)
    yield Answer.from_json(found)


def _parse(number: int, content: bytes, name: str, options: Options, part: str = "") -> str:
    refusals: tuple[Refusal, ...] = ()
    try:
        documents: Sequence[Parsed] = format_of(name).parser()(content, name, options)
    except PartlyRefused as refused:
        documents, refusals = refused.documents, (Refusal(part, str(refused)),)
    placed = tuple(replace(document, part=part + document.part) for document in documents)
    return Answer(number, placed, refusals).to_json()


def _answers_of_zip(number: int, content: bytes, options: Options) -> Iterator[Answer]:
    """Yield an answer for each file of a zip; its directory is looked through in a fork first, it may be a trap too."""

    def listing() -> str:
        return json.dumps(asdict(archive.contents(archive.open_zip(content), options)))

    listed = json.loads(in_fork(listing, options))
    opened = archive.open_zip(content)
    _import_parsers(shown for _, shown in listed["members"])
    for place, shown in listed["members"]:
        entry = opened.infolist()[place]

        def member(entry: ZipInfo = entry, part: str = f"!{shown}") -> str:
            inner = archive.member_bytes(opened, entry, options.max_bytes, "documents.max_bytes")
            return _parse(number, inner, entry.filename, options, part)

        try:
            yield replace(Answer.from_json(in_fork(member, options)), last=False)
        except Refused as refused:
            yield Answer(number, refusals=(Refusal(f"!{shown}", str(refused)),), last=False)
    yield Answer(number, refusals=tuple(Refusal(**refusal) for refusal in listed["refusals"]))


def _import_parsers(names: Iterable[str]) -> None:
    """Import what the files need, once for all forks. What is not installed is said of each file that needs it."""
    for name in {PurePath(name).suffix.lower(): name for name in names}.values():
        if not is_zip(name):
            with contextlib.suppress(Refused):
                format_of(name).parser()
    # What the forks share is not to be copied because the collector looks at it.
    gc.freeze()


def in_fork(work: Callable[[], str], options: Options) -> str:
    """Return what `work` returns, done in a fork within the limits.

    Raises:
        Refused: `work` refused, met a limit, or ended without an answer.
    """
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_within_limits, args=(work, theirs, options))
    process.start()
    theirs.close()
    try:
        message = ours.recv_bytes() if _has_answered(ours, process, options.max_seconds) else None
    except (EOFError, OSError):  # it ended before, or in the middle of, its answer
        message = b""
    finally:
        ours.close()
    if message != b"":
        # It stands still, or it has answered: how it would end by itself is of no interest.
        process.kill()
    process.join()
    if message is None:
        raise Refused(f"its parser stood still for {options.max_seconds:,} s (documents.max_seconds)")
    if not message:
        raise Refused(_how_it_ended(process.exitcode or 0, options))
    text = message[1:].decode()
    if message[:1] == _REFUSED:
        raise Refused(text)
    return text


def _has_answered(answer: Connection, process: ForkProcess, patience: int) -> bool:
    """Wait for an answer or the end of a process; False where it has stood still for `patience` seconds."""
    used = -1.0
    while not answer.poll(patience):
        seen = psutil.Process(process.pid)
        times = seen.cpu_times()
        # One that wants to run and isn't let is no more to blame than one that waits for the disk.
        if times.user + times.system <= used and seen.status() not in _BUSY:
            return False
        used = times.user + times.system
    return True


def _within_limits(work: Callable[[], str], answer: Connection, options: Options) -> None:
    _limit(options)
    too_much = f"{_REFUSED.decode()}needs more than {options.max_memory_mib:,} MiB (documents.max_memory_mib)"
    try:
        message = _READ + work().encode()
    except Refused as refused:
        message = _REFUSED + str(refused).encode("utf-8", "backslashreplace")
    except RecursionError:
        message = _REFUSED + b"nested too deeply"
    except MemoryError:
        message = too_much.encode()
    answer.send_bytes(message)


def _limit(options: Options) -> None:
    statistics = Path("/proc/self/statm")
    taken = int(statistics.read_text().split()[0]) * resource.getpagesize() if statistics.exists() else 0
    memory = taken + options.max_memory_mib * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # The soft limit's SIGXCPU is what we tell apart; the hard one is for who ignores it.
    resource.setrlimit(resource.RLIMIT_CPU, (options.max_seconds, options.max_seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _how_it_ended(status: int, options: Options) -> str:
    if status == -signal.SIGXCPU:
        return f"not done after {options.max_seconds:,} s of processor time (documents.max_seconds)"
    if status < 0:
        name = signal.Signals(-status).name
        return f"its parser was ended by {name}: damaged, or more than {options.max_memory_mib:,} MiB are needed"
    return "its parser failed; the log of the documents has the details"


def main(arguments: list[str]) -> int:
    """Answer the order in the file that the only argument names."""
    order = Order.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    with _answer_stream() as stream:
        for answer in answers(order):
            stream.write(answer.to_json() + "\n")
            stream.flush()
    return 0


def _answer_stream() -> TextIO:
    """Return standard output for answers alone: what libraries print goes to standard error from now on."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
