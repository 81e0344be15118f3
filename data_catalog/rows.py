"""Between records and rows: an Arrow schema per table, and for each record both directions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.identity import canonical, canonical_json
from data_catalog.records import (
    Chunk,
    Completion,
    DatasetVersion,
    Document,
    FailureKind,
    Item,
    Kind,
    Message,
    ModelVersion,
    Outcome,
    Request,
    RequestFailure,
    RunStatus,
    Sampling,
    Split,
    StepRun,
    Verdict,
)

Row = tuple[Any, ...]

_TEXT = pa.string()
_TEXTS = pa.list_(pa.string())
_NUMBER = pa.float64()
_COUNT = pa.int64()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


IDS = _schema(id=_TEXT)
DOCUMENTS = _schema(id=_TEXT, path=_TEXT, title=_TEXT, text=_TEXT, media_type=_TEXT)
CHUNKS = _schema(
    id=_TEXT, document_id=_TEXT, start_char=_COUNT, end_char=_COUNT, heading_path=_TEXTS, text=_TEXT, split=_TEXT
)
REFUSALS = _schema(path=_TEXT, reason=_TEXT)
EXCLUSIONS = _schema(kind=_TEXT, id=_TEXT, excluded_at=_NUMBER, actor=_TEXT)
REQUESTS = _schema(
    key=_TEXT,
    model=_TEXT,
    messages=_TEXT,
    sampling=_TEXT,
    response_schema=_TEXT,
    sample_index=_COUNT,
    purpose=_TEXT,
    template=_TEXT,
    origin=_TEXT,
    chunk_id=_TEXT,
    document_id=_TEXT,
    item_id=_TEXT,
)
COMPLETIONS = _schema(
    request_key=_TEXT,
    text=_TEXT,
    text_escaped=_TEXT,
    finish_reason=_TEXT,
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    seconds=_NUMBER,
)
REQUEST_FAILURES = _schema(request_key=_TEXT, kind=_TEXT, reason=_TEXT, attempts=_COUNT)
ITEMS = _schema(
    id=_TEXT,
    kind=_TEXT,
    payload=_TEXT,
    recipe=_TEXT,
    split=_TEXT,
    chunk_id=_TEXT,
    document_id=_TEXT,
    request_keys=_TEXTS,
    meta=_TEXT,
)
VERDICTS = _schema(
    item_id=_TEXT,
    check_name=_TEXT,
    outcome=_TEXT,
    reason=_TEXT,
    score=_NUMBER,
    request_keys=_TEXTS,
    position=_COUNT,
)
STEPS = _schema(
    id=_TEXT,
    step=_TEXT,
    fingerprint=_TEXT,
    status=_TEXT,
    started_at=_NUMBER,
    ended_at=_NUMBER,
    result=_TEXT,
    error=_TEXT,
)
METRICS = _schema(
    run_id=_TEXT, step=_COUNT, epoch=_NUMBER, loss=_NUMBER, learning_rate=_NUMBER, logged=pa.map_(_TEXT, _NUMBER)
)
SCORES = _schema(
    model=_TEXT,
    suite=_TEXT,
    position=_COUNT,
    sample_id=_TEXT,
    question=_TEXT,
    answers=_TEXTS,
    completion=_TEXT,
    outcome=_TEXT,
    score=_NUMBER,
)
GATES = _schema(
    id=_TEXT,
    candidate=_TEXT,
    baseline=_TEXT,
    stage_name=_TEXT,
    outcome=_TEXT,
    comparisons=_TEXT,
    created_at=_NUMBER,
    run_id=_TEXT,
)
MODEL_SOURCES = _schema(
    model_id=_TEXT, position=_COUNT, stage_name=_TEXT, run_id=_TEXT, dataset_id=_TEXT, gate_id=_TEXT
)


def table(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return an Arrow table; every row has the schema's columns."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def ids(values: Iterable[str]) -> pa.Table:
    """Return a one-column table of distinct ids."""
    return table(IDS, ({"id": value} for value in dict.fromkeys(values)))


def json_text(value: Any) -> str:
    """Return the canonical JSON of `value`; with lone surrogates escaped, which no UTF-8 column can hold."""
    text = canonical_json(value)
    if _is_utf8(text):
        return text
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def readable(text: str) -> str:
    """Return `text` with lone surrogates replaced, for columns that people read."""
    return text if _is_utf8(text) else text.encode("utf-8", "replace").decode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def document_row(document: Document) -> dict[str, Any]:
    """One row of `documents`."""
    return document.model_dump()


def document_of(row: Row) -> Document:
    """Columns: id, path, title, text, media_type."""
    return Document(id=row[0], path=row[1], title=row[2], text=row[3], media_type=row[4])


def chunk_row(chunk: Chunk) -> dict[str, Any]:
    """One row of `chunks`."""
    return {
        "id": chunk.id,
        "document_id": chunk.document_id,
        "start_char": chunk.start,
        "end_char": chunk.end,
        "heading_path": list(chunk.heading_path),
        "text": chunk.text,
        "split": chunk.split.value,
    }


def chunk_of(row: Row) -> Chunk:
    """Columns: id, document_id, start_char, end_char, heading_path, text, split."""
    return Chunk(
        id=row[0],
        document_id=row[1],
        start=row[2],
        end=row[3],
        heading_path=tuple(row[4]),
        text=row[5],
        split=Split(row[6]),
    )


def request_row(key: str, request: Request) -> dict[str, Any]:
    """One row of `requests`. `key` is `request.key`, which the caller has already hashed."""
    schema = request.response_schema
    return {
        "key": key,
        "model": request.model,
        "messages": json_text(request.messages),
        "sampling": json_text(request.sampling),
        "response_schema": None if schema is None else json_text(schema),
        "sample_index": request.sample_index,
        "purpose": request.purpose,
        "template": request.template,
        "origin": json_text(request.origin),
        "chunk_id": request.origin.get("chunk_id"),
        "document_id": request.origin.get("document_id"),
        "item_id": request.origin.get("item_id"),
    }


def request_of(row: Row) -> Request:
    """Columns: model, messages, sampling, response_schema, sample_index, purpose, template, origin."""
    return Request(
        model=row[0],
        messages=tuple(Message(**message) for message in json.loads(row[1])),
        sampling=Sampling(**json.loads(row[2])),
        response_schema=None if row[3] is None else json.loads(row[3]),
        sample_index=row[4],
        purpose=row[5],
        template=row[6],
        origin=json.loads(row[7]),
    )


def completion_row(completion: Completion) -> dict[str, Any]:
    """One row of `completions`; the raw text survives whatever a teacher sent."""
    plain = _is_utf8(completion.text)
    return completion.model_dump() | {
        "text": readable(completion.text),
        "text_escaped": None if plain else json.dumps(completion.text),
    }


def completion_of(row: Row) -> Completion:
    """Columns: request_key, text, text_escaped, finish_reason, prompt_tokens, completion_tokens, seconds."""
    return Completion(
        request_key=row[0],
        text=row[1] if row[2] is None else json.loads(row[2]),
        finish_reason=row[3],
        prompt_tokens=row[4],
        completion_tokens=row[5],
        seconds=row[6],
    )


def request_failure_row(failure: RequestFailure) -> dict[str, Any]:
    """One row of `request_failures`."""
    return failure.model_dump(mode="json") | {"reason": readable(failure.reason)}


def request_failure_of(row: Row) -> RequestFailure:
    """Columns: request_key, kind, reason, attempts."""
    return RequestFailure(request_key=row[0], kind=FailureKind(row[1]), reason=row[2], attempts=row[3])


def item_row(item: Item) -> dict[str, Any]:
    """One row of `items`."""
    return {
        "id": item.id,
        "kind": item.kind.value,
        "payload": json_text(item.payload),
        "recipe": item.recipe,
        "split": item.split.value,
        "chunk_id": item.chunk_id,
        "document_id": item.document_id,
        "request_keys": list(item.request_keys),
        "meta": json_text(item.meta),
    }


def item_of(row: Row) -> Item:
    """Columns: id, kind, payload, recipe, split, chunk_id, document_id, request_keys, meta."""
    return Item(
        id=row[0],
        kind=Kind(row[1]),
        payload=json.loads(row[2]),
        recipe=row[3],
        split=Split(row[4]),
        chunk_id=row[5],
        document_id=row[6],
        request_keys=tuple(row[7]),
        meta=json.loads(row[8]),
    )


def verdict_row(position: int, verdict: Verdict) -> dict[str, Any]:
    """One row of `verdicts`; `position` is its place in the batch."""
    return {
        "item_id": verdict.item_id,
        "check_name": verdict.check,
        "outcome": verdict.outcome.value,
        "reason": readable(verdict.reason),
        "score": verdict.score,
        "request_keys": list(verdict.request_keys),
        "position": position,
    }


def verdict_of(row: Row) -> Verdict:
    """Columns: item_id, check_name, outcome, reason, score, request_keys."""
    return Verdict(
        item_id=row[0],
        check=row[1],
        outcome=Outcome(row[2]),
        reason=row[3],
        score=row[4],
        request_keys=tuple(row[5]),
    )


def step_row(run: StepRun) -> dict[str, Any]:
    """One row of `step_runs`."""
    return run.model_dump(mode="json") | {"result": json_text(run.result)}


def step_of(row: Row) -> StepRun:
    """Columns: id, step, fingerprint, status, started_at, ended_at, result, error."""
    return StepRun(
        id=row[0],
        step=row[1],
        fingerprint=row[2],
        status=RunStatus(row[3]),
        started_at=row[4],
        ended_at=row[5],
        result=json.loads(row[6]),
        error=row[7],
    )


def metric_row(run_id: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """One row of `metrics` from {step, epoch, loss, learning_rate, values}."""
    rate = point.get("learning_rate")
    return {
        "run_id": run_id,
        "step": int(point["step"]),
        "epoch": float(point["epoch"]),
        "loss": float(point["loss"]),
        "learning_rate": None if rate is None else float(rate),
        "logged": [(name, float(value)) for name, value in sorted(point.get("values", {}).items())],
    }


def metric_of(row: Row) -> dict[str, Any]:
    """Columns: step, epoch, loss, learning_rate, logged."""
    return {"step": row[0], "epoch": row[1], "loss": row[2], "learning_rate": row[3], "values": dict(row[4])}


def score_row(model: str, suite: str, position: int, score: SampleScore) -> dict[str, Any]:
    """One row of `scores`."""
    return {
        "model": model,
        "suite": suite,
        "position": position,
        "sample_id": score.sample_id,
        "question": readable(score.question),
        "answers": [readable(answer) for answer in score.answers],
        "completion": readable(score.completion),
        "outcome": score.outcome.value,
        "score": score.score,
    }


def score_of(row: Row) -> SampleScore:
    """Columns: sample_id, question, answers, completion, outcome, score."""
    return SampleScore(
        sample_id=row[0],
        question=row[1],
        answers=tuple(row[2]),
        completion=row[3],
        outcome=Outcome(row[4]),
        score=row[5],
    )


def gate_row(gate: GateRecord) -> dict[str, Any]:
    """One row of `gates`."""
    return gate.model_dump() | {"comparisons": json_text(gate.comparisons)}


def gate_of(row: Row) -> GateRecord:
    """Columns: id, candidate, baseline, stage_name, outcome, comparisons, created_at, run_id."""
    return GateRecord(
        id=row[0],
        candidate=row[1],
        baseline=row[2],
        stage_name=row[3],
        outcome=row[4],
        comparisons=tuple(json.loads(row[5])),
        created_at=row[6],
        run_id=row[7],
    )


def dataset_of(row: Row) -> DatasetVersion:
    """Columns: id, name, kind, row_count, path, sha256, and more that is not part of the record."""
    return DatasetVersion(id=row[0], name=row[1], kind=Kind(row[2]), rows=row[3], path=row[4], sha256=row[5])


def model_of(row: Row) -> ModelVersion:
    """Columns: id, path, manifest, lineage, and more that is not part of the record."""
    manifest = tuple((path, size, sha256) for path, size, sha256 in json.loads(row[2]))
    return ModelVersion(id=row[0], path=row[1], manifest=manifest, lineage=json.loads(row[3]))


def model_source_rows(model_id: str, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `model_sources` for a lineage's `stages`."""
    return [
        {
            "model_id": model_id,
            "position": position,
            "stage_name": str(stage.get("name", "")),
            "run_id": stage.get("run_id") or None,
            "dataset_id": stage.get("dataset_id") or None,
            "gate_id": stage.get("gate_id") or None,
        }
        for position, stage in enumerate(stages)
    ]
