"""One completing job: requests from a file, completions appended to another, batch by batch."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import ValidationError

from data_catalog.errors import DataError
from data_catalog.records import Completion, Request
from training.compatibility import is_reward_model
from training.inference import LocalCompleter
from training.process import Progress
from training.rewarding import RewardCompleter
from training.specs import CompleteJob, CompleteResult


def complete(job: CompleteJob, *, progress: Progress, import_seconds: float = 0.0) -> CompleteResult:
    """Answer the requests of a job that have no answer yet, and append each batch of completions durably.

    The key of a request says which model answers it (`Request.model`); the caller has put the model's fingerprint
    there.
    """
    began = time.monotonic()
    requests = read_requests(job.requests)
    answered = answered_keys(job.output)
    open_requests = [request for request in requests if request.key not in answered]
    progress.write("requests", total=len(requests), open=len(open_requests))
    done = 0
    if open_requests:
        kind = RewardCompleter if is_reward_model(job.model) else LocalCompleter
        completer = kind(job.model, open_requests[0].model, batch_tokens=job.batch_tokens)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("a", encoding="utf-8") as out:
            for batch in completer.complete(open_requests):
                out.writelines(completion.model_dump_json() + "\n" for completion in batch)
                out.flush()
                os.fsync(out.fileno())
                done += len(batch)
                progress.write("batch", done=done, total=len(open_requests))
    return CompleteResult(answered=done, seconds=time.monotonic() - began, import_seconds=import_seconds)


def read_requests(path: Path) -> list[Request]:
    """Read requests (JSONL), each key once."""
    requests: dict[str, Request] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            request = Request.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{path}, line {number} is not a request: {error}", valid="JSONL of Request") from error
        requests[request.key] = request
    return list(requests.values())


def answered_keys(path: Path) -> set[str]:
    """Return the request keys that a completions file answers; cut off a last line that was not written whole.

    Such a line is what a killed process leaves; its request is asked again.
    """
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as out:
            out.truncate(whole)
    keys = set()
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            keys.add(Completion.model_validate_json(line).request_key)
        except ValidationError as error:
            raise DataError(
                f"{path}, line {number} is not a completion: {error}",
                valid="JSONL of Completion",
                next_step="move the file away: its requests are then answered again",
            ) from error
    return keys
