"""The records: what Tutelage keeps, as frozen types. The words are those of the README's glossary.

Each record knows its own identity, which is a hash of what it is. None of them knows how it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_catalog.identity import digest, make_id


class Record(BaseModel):
    """A frozen, closed record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spec(BaseModel):
    """A frozen, closed specification: what a user or a flow asks for. A misspelt field is an error, as is NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Split(StrEnum):
    """Which side of the train/evaluation split a chunk, and every item made from it, belongs to."""

    TRAIN = "train"
    EVALUATION = "evaluation"


class Kind(StrEnum):
    """The shape of an item's payload.

    TEXT: {"text"}; MESSAGES: {"messages": [{"role", "content"}]};
    PREFERENCE: {"prompt": [messages], "chosen": [messages], "rejected": [messages]} (TRL's conversational format).
    """

    TEXT = "text"
    MESSAGES = "messages"
    PREFERENCE = "preference"


class Outcome(StrEnum):
    """What a check says of an item. UNSCORED (the check could not be made) is neither pass nor failure."""

    PASSED = "passed"
    FAILED = "failed"
    UNSCORED = "unscored"


class RunStatus(StrEnum):
    """Where a run of one step stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Document(Record):
    """One source text. `id` hashes the parsed text; `path` is only where it was last seen."""

    id: str
    path: str
    title: str
    text: str
    media_type: str = "text/markdown"

    @classmethod
    def of(cls, *, path: str, title: str, text: str, media_type: str = "text/markdown") -> Self:
        """Return the document with the id that its text has."""
        return cls(id=make_id("doc", text), path=path, title=title, text=text, media_type=media_type)


class Chunk(Record):
    """A span of a document: `document.text[start:end] == text` (character offsets)."""

    id: str
    document_id: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    text: str
    split: Split = Split.TRAIN

    @classmethod
    def of(
        cls, *, document_id: str, start: int, end: int, heading_path: tuple[str, ...], text: str, split: Split
    ) -> Self:
        """Return the chunk with the id that its place has."""
        identity = {"document": document_id, "start": start, "end": end}
        return cls(
            id=make_id("chunk", identity),
            document_id=document_id,
            start=start,
            end=end,
            heading_path=heading_path,
            text=text,
            split=split,
        )

    @property
    def heading(self) -> str:
        """The heading path as one line, such as `Veltrano 40 > Maintenance`."""
        return " > ".join(self.heading_path)


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Record):
    """How a completion is drawn. A temperature of 0 is greedy; `max_tokens` of 0 generates nothing (`Likelihood`)."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=0)


class Request(Record):
    """One rendered prompt for one model, and where it comes from.

    `key` hashes what the model sees (messages, model fingerprint, sampling, schema, sample index), nothing else: the
    same question to the same model is the same request, whichever recipe asks it.

    With `max_tokens` of 0 nothing is generated: the answer is how likely the model finds the last turn, the
    assistant's, behind the turns before it (`Likelihood`). Where there are none it is plain text, outside any chat;
    and with `max_tokens` above 0 the model is asked to go on with that text (`continues_text`).
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    response_schema: Mapping[str, Any] | None = None
    sample_index: int = 0
    purpose: str = ""
    """What asks: `grounded_qa@1`, `judge@1`, `evaluate` ..."""
    template: str = ""
    """Template name and version, such as `grounded_qa/direct.v1.en`, and its digest after `#`."""
    origin: Mapping[str, Any] = Field(default_factory=dict)
    """Where the prompt's data come from: chunk_id, document_id, focus, item_id ..."""

    @model_validator(mode="after")
    def _likelihood_has_a_continuation(self) -> Self:
        if self.of_likelihood and (not self.messages or self.messages[-1].role != "assistant"):
            raise ValueError("a request with `max_tokens` of 0 ends with the assistant's turn whose likelihood it asks")
        return self

    @property
    def of_likelihood(self) -> bool:
        """Whether it asks how likely its last turn is, rather than for an answer."""
        return self.sampling.max_tokens == 0

    @property
    def continues_text(self) -> bool:
        """Whether a text is to be gone on with, outside any chat: the assistant's turn is the only one."""
        return not self.of_likelihood and [message.role for message in self.messages] == ["assistant"]

    @cached_property
    def key(self) -> str:
        """The hash that identifies the request for good; worked out once, as it is asked for at every step."""
        return make_id(
            "req",
            {
                "model": self.model,
                "messages": self.messages,
                "sampling": self.sampling,
                "schema": self.response_schema,
                "index": self.sample_index,
            },
        )


class Completion(Record):
    """A model's raw answer to a request; stored once, before it is parsed."""

    request_key: str
    text: str
    finish_reason: str
    """`stop` is a whole answer; `length` met the token limit and counts as a failed request."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Likelihood(Record):
    """How likely a model finds a continuation; kept as the JSON text of the completion of such a request."""

    logprob: float
    """Natural logarithm of the continuation's probability: the sum over its tokens."""
    tokens: int
    """How many tokens the continuation has."""
    end_logprob: float = 0.0
    """Of ending the answer right behind it, with any of the model's end tokens; 0 for plain text."""

    @classmethod
    def of(cls, completion: Completion) -> Self:
        """Read what a completion keeps."""
        return cls.model_validate_json(completion.text)


class FailureKind(StrEnum):
    """Why a request has no answer."""

    REFUSED = "refused"
    """The endpoint said that it will not answer it (a 4xx); asked again by the next run."""
    FAILED = "failed"
    """Every try failed; asked again by the next run."""
    SUSPECT = "suspect"
    """In flight when an endpoint died; the next run asks it last, and alone."""
    QUARANTINED = "quarantined"
    """Failed time and again while others were answered, or brought an endpoint down: not asked until it is released."""


class RequestFailure(Record):
    """A request that a run left without an answer."""

    request_key: str
    kind: FailureKind
    reason: str
    attempts: int
    """Tries in that run."""


class Item(Record):
    """One training (or held-out) example parsed from completions or taken from documents."""

    id: str
    kind: Kind
    payload: Mapping[str, Any]
    recipe: str
    split: Split
    chunk_id: str | None = None
    document_id: str | None = None
    request_keys: tuple[str, ...] = ()
    meta: Mapping[str, Any] = Field(default_factory=dict)
    """What checks need beside the payload: question, answer, evidence, template ..."""

    @classmethod
    def of(
        cls,
        *,
        kind: Kind,
        payload: Mapping[str, Any],
        recipe: str,
        split: Split,
        chunk_id: str | None = None,
        document_id: str | None = None,
        request_keys: tuple[str, ...] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the item with the id that its kind, payload and origin have."""
        identity = {"kind": kind, "payload": payload, "chunk": chunk_id, "document": document_id, "by": request_keys}
        return cls(
            id=make_id("item", identity),
            kind=kind,
            payload=payload,
            recipe=recipe,
            split=split,
            chunk_id=chunk_id,
            document_id=document_id,
            request_keys=request_keys,
            meta=meta or {},
        )


class Verdict(Record):
    """One check's judgement on one item."""

    item_id: str
    check: str
    """Check name and version, such as `evidence@1`."""
    outcome: Outcome
    reason: str = ""
    score: float | None = None
    request_keys: tuple[str, ...] = ()


class DatasetVersion(Record):
    """A named, immutable set of items. `id` hashes the kind and the sorted item ids."""

    id: str
    name: str
    kind: Kind
    rows: int
    path: str
    """The Parquet file, relative to the project's home."""
    sha256: str

    @staticmethod
    def identity(kind: Kind, item_ids: tuple[str, ...]) -> str:
        """Return the id of a dataset version of these items."""
        return make_id("dataset", {"kind": kind, "items": sorted(item_ids)})


class StepRun(Record):
    """One execution of one step. Equal `fingerprint` means equal inputs, so a DONE step is never done again."""

    id: str
    step: str
    """`ingest`, `generate`, `train:sft`, `gate:sft`, `register` ..."""
    fingerprint: str
    status: RunStatus
    started_at: float
    ended_at: float | None = None
    result: Mapping[str, Any] = Field(default_factory=dict)
    error: str = ""

    @staticmethod
    def fingerprint_of(step: str, inputs: Mapping[str, Any]) -> str:
        """Return the digest of a step and everything that decides what it does."""
        return digest({"step": step, "inputs": inputs})


class ModelVersion(Record):
    """An immutable model directory. `id` hashes its manifest (every file's path, size and SHA-256)."""

    id: str
    path: str
    """Relative to the project's home."""
    manifest: tuple[tuple[str, int, str], ...]
    """Sorted (path, bytes, SHA-256)."""
    lineage: Mapping[str, Any] = Field(default_factory=dict)
    """base, stages with their run and dataset ids, gate ids, config digest."""

    @staticmethod
    def identity(manifest: tuple[tuple[str, int, str], ...]) -> str:
        """Return the id of a model directory with this manifest."""
        return make_id("model", [list(entry) for entry in sorted(manifest)])


class Stage(StrEnum):
    """The names that point to one model version each."""

    CANDIDATE = "candidate"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"
