"""The endpoint speaks OpenAI's protocol, says what is wrong in its errors, and lets nobody wait without end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from data_catalog.errors import MachineError
from flows.serving.endpoint import LARGEST_BODY, Endpoint
from tests.flows.serving.fakes import QUESTION, World

ASK: dict[str, Any] = {"model": "production", "messages": [{"role": "user", "content": QUESTION}]}


def address(endpoint: Endpoint) -> tuple[str, int]:
    return str(endpoint.server_address[0]), int(endpoint.server_address[1])


class Client:
    """One connection to an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.connection = http.client.HTTPConnection(*address(endpoint), timeout=10)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        self.connection.request("GET", path, headers=headers or {})
        return self._answer()

    def post(self, body: Any, *, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        return self._answer()

    def _answer(self) -> tuple[int, Any]:
        response = self.connection.getresponse()
        data = response.read()
        if response.getheader("Content-Type") == "text/event-stream":
            return response.status, data.decode()
        return response.status, json.loads(data)


@pytest.fixture
def world() -> World:
    world = World()
    world.follower.open_first()
    return world


@pytest.fixture
def endpoint(world: World) -> Iterator[Endpoint]:
    endpoint = Endpoint(world.follower, host="127.0.0.1", port=0, most_in_flight=2)
    with endpoint.running():
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Client]:
    client = Client(endpoint)
    yield client
    client.connection.close()


def test_an_answer_has_the_shape_that_clients_expect(client: Client) -> None:
    status, answer = client.post(ASK)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "model-1"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "red"}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}


def test_the_real_openai_client_understands_it(endpoint: Endpoint, world: World) -> None:
    openai = pytest.importorskip("openai")
    world.backends["model-1"].answer = "it is red"
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["production", "model-1"]
        whole = client.chat.completions.create(**ASK)
        assert whole.choices[0].message.content == "it is red"
        events = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
        assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == "itisred"
        assert events[-1].usage is not None
        with pytest.raises(openai.NotFoundError, match="no model `other` here; valid: production, model-1"):
            client.chat.completions.create(**{**ASK, "model": "other"})
        with pytest.raises(openai.BadRequestError, match="`tools` is not supported by the local backend"):
            client.chat.completions.create(**ASK, tools=[{"type": "function", "function": {"name": "f"}}])


def test_pieces_arrive_before_the_answer_is_whole(client: Client, world: World) -> None:
    backend = world.backends["model-1"]
    backend.answer = "red as rust"
    backend.go.clear()
    client.connection.request(
        "POST", "/v1/chat/completions", json.dumps({**ASK, "stream": True}), {"Content-Type": "application/json"}
    )
    response = client.connection.getresponse()
    seen = b""
    while b"red" not in seen:
        seen += response.read1()
    assert b"rust" not in seen
    backend.go.set()
    rest = seen + response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason": "stop"' in rest


def test_an_answer_that_breaks_off_says_so_in_its_last_event(client: Client, world: World) -> None:
    world.backends["model-1"].broken = False
    backend = world.backends["model-1"]
    backend.go.clear()
    client.connection.request(
        "POST", "/v1/chat/completions", json.dumps({**ASK, "stream": True}), {"Content-Type": "application/json"}
    )
    response = client.connection.getresponse()
    seen = response.read1()
    backend.broken = True
    backend.go.set()
    assert b'"code": "backend_lost"' in seen + response.read()


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{not json", 400, "invalid_json", "not JSON"),
        (b"\xff\xfe", 400, "invalid_json", "not JSON"),
        (b"[" * 100_000, 400, "invalid_json", "not JSON"),
        ([1], 400, "invalid_json", "a JSON object"),
        ({"messages": []}, 400, "invalid_value", "`model` is missing"),
        ({"model": "production"}, 400, "invalid_value", "`messages` is missing"),
        ({**ASK, "messages": "hello"}, 400, "invalid_value", "`messages` is str"),
        ({**ASK, "messages": []}, 400, "invalid_value", "`messages`"),
        ({**ASK, "messages": [{"role": "robot", "content": "?"}]}, 400, "invalid_value", "`messages.0.role`"),
        ({**ASK, "messages": [{"role": "user"}]}, 400, "invalid_value", "`messages.0.content`"),
        ({**ASK, "model": "model-0"}, 404, "model_not_found", "valid: production, model-1"),
        ({**ASK, "max_tokens": 0}, 400, "invalid_value", "`max_tokens`"),
        ({**ASK, "temperature": 3}, 400, "invalid_value", "`temperature`"),
        ({**ASK, "n": 2}, 400, "invalid_value", "`n`"),
        ({**ASK, "stop": ["\n"]}, 400, "unsupported_parameter", "--backend vllm"),
        ({**ASK, "frequency_penalty": 1.0}, 400, "invalid_value", "`frequency_penalty`"),
        ({**ASK, "colour": "red"}, 400, "unsupported_parameter", "`colour`"),
    ],
)
def test_bad_input_is_answered_with_what_was_wrong(
    client: Client, body: Any, status: int, code: str, message: str
) -> None:
    got, answer = client.post(body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert message in answer["error"]["message"]
    assert client.post(ASK)[0] == 200, "the same connection goes on"


def test_fields_that_ask_for_nothing_are_taken(client: Client) -> None:
    nothing = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "stop": None, "user": "ada", "logprobs": False}
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
    ]
    assert client.post({**ASK, **nothing, "messages": parts, "response_format": {"type": "text"}})[0] == 200


def test_a_page_of_another_site_can_not_make_a_browser_ask(client: Client) -> None:
    status, answer = client.post(ASK, **{"Content-Type": "text/plain"})
    assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")


def test_a_body_without_a_length_or_with_too_great_a_one_is_not_read(endpoint: Endpoint) -> None:
    for header, status in (("X-Nothing: 1", b"411"), (f"Content-Length: {LARGEST_BODY + 1}", b"413")):
        with socket.create_connection(address(endpoint), timeout=10) as raw:
            raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n{header}\r\n\r\n".encode())
            data = b""
            while piece := raw.recv(65_536):
                data += piece
        assert data.split()[1] == status


def test_more_than_fits_is_told_to_come_back(endpoint: Endpoint, world: World) -> None:
    backend = world.backends["model-1"]
    backend.go.clear()
    statuses: list[int] = []

    def ask() -> None:
        client = Client(endpoint)
        statuses.append(client.post(ASK)[0])
        client.connection.close()

    held = [threading.Thread(target=ask) for _ in range(2)]
    for thread in held:
        thread.start()
    while world.follower.in_flight < 2:
        time.sleep(0.01)
    third = Client(endpoint)
    status, answer = third.post(ASK)
    third.connection.close()
    backend.go.set()
    for thread in held:
        thread.join()
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert statuses == [200, 200]


def test_a_switch_in_the_middle_of_requests_loses_none(endpoint: Endpoint, client: Client, world: World) -> None:
    old = world.backends["model-1"]
    old.go.clear()
    old.asked.clear()  # set by the canary
    answers: list[Any] = []
    slow = Client(endpoint)
    thread = threading.Thread(target=lambda: answers.append(slow.post(ASK)))
    thread.start()
    assert old.asked.wait(5)
    world.stage.move("model-2")
    world.follower.tick()
    assert client.post(ASK)[1]["model"] == "model-2"
    assert client.get("/health")[1]["draining"] == "model-1"
    assert client.post({**ASK, "model": "model-1"})[0] == 404
    world.follower.tick()
    assert not old.stopped
    old.go.set()
    thread.join()
    slow.connection.close()
    assert answers[0][0] == 200
    assert answers[0][1]["model"] == "model-1"
    world.follower.tick()
    assert old.stopped


def test_health_says_what_is_served_and_what_was_refused(client: Client, world: World) -> None:
    status, health = client.get("/health")
    assert (status, health["status"], health["model"], health["refused"]) == (200, "ok", "model-1", None)
    world.stage.altered.add("model-2")
    world.stage.move("model-2")
    world.follower.tick()
    status, health = client.get("/health")
    assert (status, health["model"], health["refused"]["model"]) == (200, "model-1", "model-2")
    world.backends["model-1"].running = False
    assert client.get("/health")[0] == 503


def test_while_nothing_is_loaded_it_says_so() -> None:
    world = World()
    endpoint = Endpoint(world.follower, host="127.0.0.1", port=0)
    with endpoint.running():
        client = Client(endpoint)
        assert client.post(ASK)[0] == 503
        assert client.get("/health")[0] == 503
        assert client.get("/v1/models")[1]["data"][0]["id"] == "production"
        client.connection.close()


def test_a_key_is_demanded_of_everything_but_health(world: World) -> None:
    endpoint = Endpoint(world.follower, host="127.0.0.1", port=0, api_key="geheim-ü")
    with endpoint.running():
        client = Client(endpoint)
        assert client.post(ASK)[0] == 401
        assert client.get("/v1/models")[0] == 401
        assert client.get("/health")[0] == 200
        client.connection.close()
    endpoint = Endpoint(world.follower, host="127.0.0.1", port=0, api_key="secret")
    with endpoint.running():
        client = Client(endpoint)
        assert client.post(ASK, Authorization="Bearer secret")[0] == 200
        assert client.post(ASK, Authorization="Bearer other")[0] == 401
        client.connection.close()


def test_other_addresses_are_told_which_there_are(client: Client) -> None:
    status, answer = client.get("/v1/completions")
    assert status == 404
    assert "POST /v1/chat/completions" in answer["error"]["message"]
    assert client.post(ASK, path="/v2/chat")[0] == 404


def test_a_port_in_use_is_said_before_anything_is_loaded(endpoint: Endpoint, world: World) -> None:
    with pytest.raises(MachineError, match=r"port \d+ on 127\.0\.0\.1 can't be used") as error:
        Endpoint(world.follower, host="127.0.0.1", port=endpoint.server_address[1])
    assert "--port" in error.value.next_step


def test_a_client_that_goes_away_ends_its_answer_quietly(
    endpoint: Endpoint, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = world.backends["model-1"]
    backend.answer = " ".join(["word"] * 20_000)
    with socket.create_connection(address(endpoint), timeout=10) as raw:
        data = json.dumps({**ASK, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        raw.recv(100)
    deadline = time.monotonic() + 10
    while world.follower.in_flight and time.monotonic() < deadline:
        time.sleep(0.02)
    assert world.follower.in_flight == 0
    assert capfd.readouterr().err == ""
