"""What goes over the wire: OpenAI's chat completions, as far as local weights can answer them, and their errors.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_catalog.records import Message, Request, Sampling

JSON, EVENTS = "application/json", "text/event-stream"
LAST_EVENT = b"data: [DONE]\n\n"
DEFAULT_MAX_TOKENS = 512
_Zero = Annotated[float, Field(ge=0, le=0)]


class ApiError(Exception):
    """A refusal as a client of OpenAI's interface expects it: an HTTP status and a JSON body."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    @property
    def body(self) -> bytes:
        """The JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. `body` is read to its end or closed; it may come slowly, piece by piece."""

    status: int
    content_type: str
    body: Iterator[bytes]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None

    def message(self) -> Message:
        """The turn as the models here are asked: one text, and `system` for its newer name."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class _TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]


class ChatBody(BaseModel):
    """The fields of a chat completion that local weights can honour. Any other is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    messages: list[_Turn] = Field(min_length=1)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    n: Literal[1] | None = None
    # Without effect on the answer: accepted as they come.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    # Accepted where they ask for nothing.
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logprobs: Literal[False] | None = None
    response_format: _TextFormat | None = None
    stop: None = None
    tools: None = None

    def request(self, fingerprint: str) -> Request:
        """Return the request to the model of this fingerprint. Without a `seed`, sampling differs from time to time."""
        temperature = self.temperature or 0.0
        index = 0 if temperature == 0 else self.seed if self.seed is not None else random.getrandbits(48)
        return Request(
            model=fingerprint,
            messages=tuple(turn.message() for turn in self.messages),
            sampling=Sampling(
                temperature=temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS,
            ),
            sample_index=index,
            purpose="serve",
        )


def read_body(data: bytes) -> dict[str, Any]:
    """Return the JSON object that a client sent.

    Raises:
        ApiError: it is none, or does not name a model and messages.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is {type(body).__name__}; valid: a JSON object", code="invalid_json")
    for field, kind in (("model", str), ("messages", list)):
        if not isinstance(body.get(field), kind):
            what = "is missing" if field not in body else f"is {type(body[field]).__name__}"
            valid = {str: "a text", list: "a list of {role, content}"}[kind]
            raise ApiError(400, f"`{field}` {what}; valid: {valid}", code="invalid_value", param=field)
    return body


def chat_body(body: Mapping[str, Any]) -> ChatBody:
    """Return the request as local weights can answer it.

    Raises:
        ApiError: a field is wrong, or asks for what local weights can't do.
    """
    try:
        return ChatBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("str", "list[_Part]"))
        if first["type"] == "extra_forbidden" or first["loc"][0] in ("stop", "tools", "response_format", "logprobs"):
            message = f"`{where}` is not supported by the local backend: leave it out, or serve with --backend vllm"
            raise ApiError(400, message, code="unsupported_parameter", param=where) from error
        message = f"`{where}`: {first['msg']} (got {first['input']!r:.80})"
        raise ApiError(400, message, code="invalid_value", param=where) from error


def with_defaults(body: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a request for a server that knows the model as `version`, with the defaults that local weights have."""
    given = {key: value for key, value in body.items() if value is not None}
    if "max_completion_tokens" not in given:
        given.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    given.setdefault("temperature", 0.0)
    return {**given, "model": version}


@dataclass(frozen=True)
class Final:
    """The end of an answer."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The token counts as OpenAI names them."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def whole_reply(version: str, final: Final) -> Reply:
    """Return an answer in one piece."""
    message = {"role": "assistant", "content": final.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": final.finish_reason}
    content = _head(version, "chat.completion") | {"choices": [choice], "usage": final.usage}
    return Reply(200, JSON, iter([json.dumps(content).encode()]))


def streamed_reply(version: str, pieces: Iterable[str | Final], *, with_usage: bool) -> Reply:
    """Return an answer as server-sent events; an error in the middle becomes the last event."""
    return Reply(200, EVENTS, _events(_head(version, "chat.completion.chunk"), pieces, with_usage))


def _events(head: Mapping[str, Any], pieces: Iterable[str | Final], with_usage: bool) -> Iterator[bytes]:
    def event(delta: Mapping[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    try:
        for piece in pieces:
            if isinstance(piece, str):
                yield event({"content": piece})
            else:
                yield event({}, piece.finish_reason)
                if with_usage:
                    yield _event({**head, "choices": [], "usage": piece.usage})
    except ApiError as error:
        yield _event(json.loads(error.body))
    yield LAST_EVENT


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _head(version: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": version}


def answer_text(reply: Reply) -> str:
    """Return the text of a whole reply, for who asks from inside (the canary).

    Raises:
        ApiError: it is no answer.
    """
    data = b"".join(reply.body)
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        message = f"no answer (status {reply.status}): {data[:200].decode('utf-8', 'replace')}"
        raise ApiError(502, message, code="no_answer") from error
    return content if isinstance(content, str) else ""
