"""One try at one request: the OpenAI-compatible protocol over HTTP, and what can be wrong with an answer.

A request goes to `/chat/completions`; one that goes on with a text outside any chat, to `/completions`.

The protocol is spoken directly over aiohttp instead of through the `openai` package. Measured on one core against a
local server that answers at once, 64 requests in flight: openai 3.54 430 requests/s (2.3 ms of CPU each), httpx2 2.16
960 (1.0 ms), aiohttp 3.14 4,100 (0.23 ms). Where the same cores also run the model, the difference is the model's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

import aiohttp

from data_catalog.records import Completion, Request

CONNECT_SECONDS = 10.0
RESPONSE_BYTES = 65_536
RESPONSE_BYTES_PER_TOKEN = 64
"""A response may have `RESPONSE_BYTES` plus this for each token asked for; a longer one is broken off."""
SHOWN_BYTES = 300
"""How much of an unexpected response an error shows."""
RETRIED_STATUS = frozenset({408, 409, 425, 429})
THROTTLING_STATUS = frozenset({429, 503})
FATAL_STATUS = frozenset({401, 403, 404})
NO_SUCH_PATH = frozenset({404, 405, 501})
"""What servers answer that have no `/completions`, or have it not for this model."""


class Trouble(Enum):
    """What kept a try from its answer; it decides who is to blame and what to do."""

    THROTTLED = "throttled"
    """429 or 503: too many at once."""
    TIMEOUT = "timeout"
    """No whole answer in time."""
    CRASH = "crash"
    """Another 5xx, or a connection that broke: the server, or what this request does to it."""
    UNCONNECTED = "unconnected"
    """Nobody listens there."""
    BROKEN = "broken"
    """An answer that can't be used."""


class TryAgain(Exception):
    """This try failed in a way in which another one may not.

    `retry_after` is what the server asked for, in seconds.
    """

    def __init__(self, reason: str, trouble: Trouble = Trouble.BROKEN, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.retry_after = retry_after


class Refused(Exception):
    """The server will not answer this request; `fatal` says that it will answer no other one either."""

    def __init__(self, reason: str, *, fatal: bool) -> None:
        super().__init__(reason)
        self.fatal = fatal


class NoTextCompletions(Refused):
    """The server does not go on with texts outside a chat: it has no `/completions`, or not for this model."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, fatal=True)


class ChatEndpoint:
    """An endpoint within one event loop; used as an asynchronous context manager.

    Args:
        base_url: `http://host:port/v1`.
        model: the name under which the endpoint serves the model.
        api_key: sent as a bearer token; empty sends none.
        connections: open at once, at most.
        request_timeout: seconds for one answer, from sending to the last byte.
        proxy: an HTTP proxy, or None.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key: str, connections: int, request_timeout: float, proxy: str | None
    ) -> None:
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.text_url = f"{base_url.rstrip('/')}/completions"
        self.model = model
        self.reached = False
        """Whether any HTTP response ever came from there."""
        self._proxy = proxy
        headers = {"Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._seconds = request_timeout
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(total=request_timeout, sock_connect=min(CONNECT_SECONDS, request_timeout)),
        )

    async def __aenter__(self) -> ChatEndpoint:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def ask(self, request: Request, key: str) -> Completion:
        """Send one request and return its completion, whole (`stop`) or cut off (`length`).

        Raises:
            TryAgain: no answer, or a broken one.
            Refused: a 4xx that a repetition won't change, or a redirection; NoTextCompletions where the server can't
                go on with a text.
        """
        started = time.monotonic()
        url = self.text_url if request.continues_text else self.url
        limit = RESPONSE_BYTES + RESPONSE_BYTES_PER_TOKEN * request.sampling.max_tokens
        try:
            async with self._session.post(
                url, data=payload(request, self.model), proxy=self._proxy, allow_redirects=False
            ) as response:
                self.reached = True
                if response.status != 200:
                    raise await _bad_status(response, of_text=request.continues_text)
                body = await _read(response, limit)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TryAgain(f"no connection: {error}", Trouble.UNCONNECTED) from error
        except TimeoutError as error:
            raise TryAgain(f"no whole answer within {self._seconds:g} s", Trouble.TIMEOUT) from error
        except (aiohttp.ClientError, OSError) as error:
            broke = f"the connection broke: {type(error).__name__} {error}".rstrip()
            raise TryAgain(broke, Trouble.CRASH) from error
        return completion_of(body, key, seconds=time.monotonic() - started)


def payload(request: Request, model: str) -> bytes:
    """Return the body of a request.

    There is no `seed`: it kills some servers' engines. The schema is not `strict`: that mode refuses `maxLength`.
    """
    body: dict[str, Any] = {
        "model": model,
        **_prompt(request),
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_tokens,
    }
    if request.response_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.response_schema},
        }
    return json.dumps(body, separators=(",", ":")).encode()


def _prompt(request: Request) -> dict[str, Any]:
    if request.continues_text:
        return {"prompt": request.messages[0].content}
    return {"messages": [{"role": message.role, "content": message.content} for message in request.messages]}


def completion_of(body: bytes, key: str, *, seconds: float) -> Completion:
    """Return the completion that a response body holds.

    An empty answer that ended by itself is an answer; a missing one is not, unless there is a thought in its place or
    all tokens went into thinking. A thought that the server sends apart (`reasoning_content`, in newer servers
    `reasoning`) is put before the text between `<think>` marks, as models write it, so that the raw answer is whole.

    Raises:
        TryAgain: no JSON, no choice, no content, or generation was aborted.
    """
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        # `/completions` has a text where `/chat/completions` has a message.
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        finish_reason = choice.get("finish_reason") or "stop"
        thought = message.get("reasoning_content") or message.get("reasoning")
        text = message.get("content") if thought else message["content"]
    except (ValueError, RecursionError) as error:
        raise TryAgain(f"the answer is no JSON: {_shown(body)}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise TryAgain(f"the answer has no choice with a message: {_shown(body)}") from error
    if text is None and (thought or finish_reason == "length"):
        text = ""
    if not isinstance(text, str) or not isinstance(finish_reason, str):
        raise TryAgain("the answer has no content")
    if finish_reason in ("abort", "error"):
        raise TryAgain(f"the server ended the answer by {finish_reason}")
    if thought and isinstance(thought, str):
        # Cut off before any text, the thought may be whole or not: it is left open, and nothing can mistake it.
        text = f"<think>{thought}" if finish_reason == "length" and not text else f"<think>{thought}</think>\n{text}"
    usage = value.get("usage")
    return Completion(
        request_key=key,
        text=_storable(text),
        finish_reason=finish_reason,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        seconds=seconds,
    )


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Return a Retry-After header (seconds, or an HTTP date) as seconds from now; None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > limit:
            raise TryAgain(f"more than {limit:,} bytes for an answer: {_shown(bytes(body))}")
    return bytes(body)


async def _bad_status(response: aiohttp.ClientResponse, *, of_text: bool) -> TryAgain | Refused:
    status = response.status
    shown = _shown(await response.content.read(SHOWN_BYTES * 4))
    if of_text and status in NO_SUCH_PATH:
        return NoTextCompletions(f"HTTP {status}: {shown}")
    if status in RETRIED_STATUS or status >= 500:
        retry_after = retry_after_seconds(response.headers.get("Retry-After"))
        return TryAgain(f"HTTP {status}: {shown}", _trouble(status), retry_after)
    if 300 <= status < 400:
        return Refused(f"HTTP {status}: moved to {response.headers.get('Location', 'nowhere')}", fatal=True)
    return Refused(f"HTTP {status}: {shown}", fatal=status in FATAL_STATUS)


def _trouble(status: int) -> Trouble:
    if status in THROTTLING_STATUS:
        return Trouble.THROTTLED
    return Trouble.CRASH if status >= 500 else Trouble.BROKEN


def _shown(body: bytes) -> str:
    text = " ".join(body[: SHOWN_BYTES * 4].decode("utf-8", "replace").split())
    return text[:SHOWN_BYTES] or f"{len(body):,} bytes of white space"


def _storable(text: str) -> str:
    """Replace what JSON escapes can smuggle in and no store accepts: half surrogates and NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else 0
