"""Documents parsed in a process of their own: starts it, reads the answers, goes on after a file that ended it.

The process gives every file limits of its own (generators/documents/worker.py), so its end is the exception: the
machine took it for its memory, or someone killed it. Then the file it was at is refused, and a new one does the rest.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flows.processes import ManagedProcess
from generators.documents import Answer, Job, Options, ParseApart, Refusal
from generators.documents.results import Order

OnProgress = Callable[[int, int], None]

# The process forks, so nothing in it may start threads; and its limit of memory is one of addresses, of which Arrow's
# own allocators take more than they use.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def document_parser(home: Path, on_progress: OnProgress | None = None) -> ParseApart:
    """Return what `read_documents` hands files to; its log is `<home>/logs/documents.log`.

    Args:
        home: where the process leaves its log and its record.
        on_progress: called with the number of files that are done and of all.
    """

    def parse(jobs: Sequence[Job], options: Options) -> Iterator[Answer]:
        done = 0
        while done < len(jobs):
            started_at = done
            for answer in _answers_of_one_process(jobs[started_at:], options, home):
                yield replace(answer, job=started_at + answer.job)
                done += answer.last
                if answer.last and on_progress is not None:
                    on_progress(done, len(jobs))
            if done < len(jobs):
                reason = f"the process that parsed it ended; {home / 'logs' / 'documents.log'} may say why"
                yield Answer(done, refusals=(Refusal("", reason),))
                done += 1

    return parse


def _answers_of_one_process(jobs: Sequence[Job], options: Options, home: Path) -> Iterator[Answer]:
    log = home / "logs" / "documents.log"
    with tempfile.TemporaryDirectory(prefix="tutelage-documents-") as folder:
        order = Path(folder, "order.json")
        order.write_text(Order(tuple(jobs), options).to_json(), encoding="utf-8")
        argv = [sys.executable, "-m", "generators.documents.worker", str(order)]
        with ManagedProcess(argv, home=home, log=log, env=_ENVIRONMENT, pipe_output=True) as process:
            for line in process.lines():
                try:
                    answer = Answer.from_json(line)
                except json.JSONDecodeError:
                    return  # the process died while it wrote
                yield answer
