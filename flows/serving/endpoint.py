"""The HTTP endpoint in front: `/v1/models`, `/v1/chat/completions`, `/health`. A thread per connection, HTTP/1.1."""

from __future__ import annotations

import contextlib
import hmac
import http.server
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any

from data_catalog.errors import MachineError
from flows.serving.follower import Follower, Replica
from flows.serving.wire import EVENTS, JSON, ApiError, Reply, read_body

LARGEST_BODY = 8 << 20
"""Bytes of a request's body."""
MOST_IN_FLIGHT = 64
_QUIET_SECONDS = 120.0
"""How long a connection may say nothing."""


class Endpoint(http.server.ThreadingHTTPServer):
    """The listening server; requests are handed to the follower's active version.

    Raises:
        MachineError: the port is taken, or the host is none of this machine's.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, follower: Follower, *, host: str, port: int, api_key: str = "", most_in_flight: int = MOST_IN_FLIGHT
    ) -> None:
        self.follower = follower
        self.api_key = api_key
        self.places = threading.BoundedSemaphore(most_in_flight)
        self.most_in_flight = most_in_flight
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise MachineError(
                f"port {port} on {host} can't be used: {error.strerror or error}",
                valid="a free port of this machine",
                next_step="give another with --port N, or end the program that has it (`ss -ltnp` names it)",
            ) from error

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take a client that went away for what it is; anything else is a defect and is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Listen in a thread of its own; yield the address."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="endpoint")
        thread.start()
        try:
            yield self.url
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    # The answers --------------------------------------------------------------------------------------------------

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of `/health`: 200 while a version answers."""
        follower = self.follower
        active, draining, refused = follower.active, follower.draining, follower.refused
        ready = active is not None and active.backend.running
        content = {
            "status": "ok" if ready else "loading" if follower.loading else "down",
            "stage": follower.stage.name,
            "model": active.version if active else None,
            "in_flight": follower.in_flight,
            "loading": follower.loading,
            "draining": draining.version if draining else None,
            "refused": {"model": refused.version, "reason": refused.reason} if refused else None,
        }
        return (200 if ready else 503), content

    def models(self) -> dict[str, Any]:
        """Return the body of `/v1/models`: the stage, and the version behind it."""
        active = self.follower.active
        names = [self.follower.stage.name] if active is None else [self.follower.stage.name, active.version]
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "tutelage", "root": active and active.version}
            for name in names
        ]
        return {"object": "list", "data": entries}

    def chat(self, data: bytes, replica: Replica) -> Reply:
        """Return the active version's answer."""
        body = read_body(data)
        names = (self.follower.stage.name, replica.version)
        if body["model"] not in names:
            message = f"no model `{body['model']:.80}` here; valid: {', '.join(names)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return replica.backend.chat(body)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: Endpoint
    protocol_version = "HTTP/1.1"
    server_version = "tutelage"
    sys_version = ""
    timeout = _QUIET_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: what was asked is nobody else's business."""

    def do_GET(self) -> None:
        """Answer `/health` and `/v1/models`."""
        if self.path == "/health":
            self._json(*self.server.health())
        elif not self._may():
            self._error(ApiError(401, "no or a wrong API key", code="invalid_api_key"))
        elif self.path == "/v1/models":
            self._json(200, self.server.models())
        else:
            self._error(_no_route("GET", self.path))

    def do_POST(self) -> None:
        """Answer `/v1/chat/completions`."""
        try:
            data = self._body()
            if not self._may():
                raise ApiError(401, "no or a wrong API key", code="invalid_api_key")
            if self.path != "/v1/chat/completions":
                raise _no_route("POST", self.path)
            with self._place(), self.server.follower.lease() as replica:
                self._send(self.server.chat(data, replica))
        except ApiError as error:
            self._error(error)

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return not self.server.api_key or hmac.compare_digest(given.encode(), self.server.api_key.encode())

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if not self.server.places.acquire(blocking=False):
            message = f"{self.server.most_in_flight} requests are being answered; ask again in a moment"
            raise ApiError(429, message, code="rate_limit_exceeded")
        try:
            yield
        finally:
            self.server.places.release()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True  # where the body ends is not known, so neither is where the next one begins
            raise ApiError(411, "the request has no Content-Length", code="length_required")
        if int(length) > LARGEST_BODY:
            self.close_connection = True
            raise ApiError(413, f"a body of {length} bytes; valid: up to {LARGEST_BODY}", code="too_large")
        data = self.rfile.read(int(length))
        # Demanded by OpenAI too; here it also keeps other web pages out, whose browsers ask before they send it.
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise ApiError(415, f"Content-Type `{kind:.80}`; valid: {JSON}", code="unsupported_media_type")
        return data

    def _send(self, reply: Reply) -> None:
        """Send an answer: whole, or in pieces as they come. A client that went away ends it."""
        with contextlib.closing(_Closable(reply.body)) as pieces:
            if reply.content_type.partition(";")[0] != EVENTS:
                self._whole(reply.status, b"".join(pieces), kind=reply.content_type)
                return
            chunked = self.request_version != "HTTP/1.0"
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Cache-Control", "no-cache")
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.close_connection = True
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            except ApiError:
                self.close_connection = True  # the status is out: that it was cut off is all that can still be told
                return
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, content: Any) -> None:
        self._whole(status, json.dumps(content).encode())

    def _error(self, error: ApiError) -> None:
        self._whole(error.status, error.body, retry=error.status in (429, 503))

    def _whole(self, status: int, data: bytes, *, kind: str = JSON, retry: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if retry:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)


class _Closable(Iterator[bytes]):
    """An iterator that can be closed, whatever it is."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body

    def __next__(self) -> bytes:
        return next(self._body)

    def close(self) -> None:
        """Close the iterator where it has a `close`: then its source stops."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _no_route(method: str, path: str) -> ApiError:
    valid = "GET /health, GET /v1/models, POST /v1/chat/completions"
    return ApiError(404, f"no {method} {path:.80}; valid: {valid}", code="not_found")
