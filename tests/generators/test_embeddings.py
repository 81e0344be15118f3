"""Vectors: over real HTTP, kept and put together, and which of them point the same way."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import TeacherError
from data_catalog.records import Completion, FailureKind, Message, Request, Sampling
from generators import embeddings
from generators.embeddings import BadVector, Embedder, Source, Vectors, alike, kept_vector, likest, vector_text
from generators.specs import EmbedderSpec
from generators.teacher import OpenAITeacher
from tests.scripted_server import Fault, ScriptedServer


def unit(*numbers: float) -> list[float]:
    return [number / sum(one * one for one in numbers) ** 0.5 for number in numbers]


def spelled(text: str) -> list[float]:
    """Say how often each letter stands in a text: a vector that the order of the words does not change."""
    return [1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]


def served(server: ScriptedServer, **settings: Any) -> OpenAITeacher:
    spec = EmbedderSpec.model_validate({"model": "scripted", "base_url": server.base_url, **settings})
    return OpenAITeacher(spec, server.base_url, "scripted", "fp", backoff_seconds=0.02, section="embedder")


def request(text: str) -> Request:
    return Request(model="fp", messages=(Message(role="user", content=text),), sampling=Sampling(max_tokens=0))


def no_chat(body: Mapping[str, Any]) -> str:
    raise AssertionError("a server of vectors was asked for words")


# --- over HTTP ---


@pytest.mark.parametrize("written_out", [False, True])
def test_a_text_is_sent_as_it_is_and_its_unit_vector_kept(written_out: bool) -> None:
    with ScriptedServer(no_chat, embed=lambda text: [3.0, 0.0, 4.0], writes_numbers_out=written_out) as server:
        (batch,) = served(server).complete([request("How heavy is 它?")])
        assert server.received == [{"model": "scripted", "input": "How heavy is 它?", "encoding_format": "base64"}]
    (completion,) = batch
    assert kept_vector(completion.text) == pytest.approx([0.6, 0.0, 0.8], abs=1e-3)
    assert (completion.finish_reason, completion.prompt_tokens, completion.completion_tokens) == ("stop", 7, 0)


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.RATE_LIMITED, Fault.RESET, Fault.HALF_JSON, Fault.HTML])
def test_a_broken_answer_is_asked_again(fault: Fault) -> None:
    with ScriptedServer(no_chat, embed=spelled, faults=[fault]) as server:
        answers = [completion for batch in served(server).complete([request("a")]) for completion in batch]
        assert len(server.received) == 2
    assert len(answers) == 1


def test_a_server_that_dies_is_asked_for_a_vector_to_see_whether_it_is_back() -> None:
    asked = [request(f"text {number}") for number in range(30)]
    with ScriptedServer(no_chat, embed=spelled, faults=[None] * 5 + [Fault.DEATH], restart_after=0.2) as server:
        answers = [completion for batch in served(server, concurrency=4).complete(asked) for completion in batch]
        assert server.deaths == 1
        assert all("input" in body for body in server.received)
    assert {completion.request_key for completion in answers} == {one.key for one in asked}


@pytest.mark.parametrize("vector", [[], [0.0, 0.0], [float("nan"), 1.0]])
def test_what_points_nowhere_is_no_vector(vector: list[float]) -> None:
    with ScriptedServer(no_chat, embed=lambda text: vector if text == "a" else spelled(text)) as server:
        teacher = served(server, max_attempts=2, failure_share=1.0)
        answers = [completion for batch in teacher.complete([request("a"), request("b")]) for completion in batch]
    assert [completion.request_key for completion in answers] == [request("b").key]
    (failure,) = teacher.failures
    assert failure.kind is FailureKind.FAILED
    assert "embedding" in failure.reason


def test_a_server_that_only_chats_is_an_error_that_names_the_section() -> None:
    with ScriptedServer(lambda body: "hello") as server, pytest.raises(TeacherError) as caught:
        list(served(server).complete([request("a")]))
    assert "gives no vectors for model 'scripted'" in str(caught.value)
    assert "embedder.base_url" in str(caught.value)
    assert "teacher." not in str(caught.value)


def test_an_address_where_nobody_listens_names_the_section() -> None:
    server = ScriptedServer(no_chat, embed=spelled)
    with server:
        pass
    with pytest.raises(TeacherError, match=r"the embedder at .* never answered") as caught:
        list(served(server, max_attempts=1, request_timeout=1).complete([request("a")]))
    assert "check embedder.base_url" in str(caught.value)


def test_an_embedder_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="base_url"):
        EmbedderSpec(model="some/model")


# --- kept ---


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40).filter(lambda found: any(map(abs, found))))
def test_numbers_and_base64_of_them_are_kept_alike(numbers: list[float]) -> None:
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    assert vector_text(numbers) == vector_text(packed)
    kept = kept_vector(vector_text(numbers)).astype(np.float64)
    exact = np.asarray(numbers) / np.linalg.norm(numbers)
    assert kept @ exact == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("sent", ["no base64!", "YWI=", 3.0, [[1.0, 2.0]], ["a"], None, {"a": 1}])
def test_what_is_no_vector_is_refused(sent: object) -> None:
    with pytest.raises(BadVector):
        vector_text(sent)


# --- put together ---


class Endpoint:
    """Gives vectors, and remembers the texts."""

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self.vectors = vectors
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        self.asked += requests
        known = {one.key: self.vectors.get(one.messages[0].content) for one in requests}
        return {
            key: Completion(request_key=key, text=vector_text(list(vector)), finish_reason="stop")
            for key, vector in known.items()
            if vector is not None
        }


def test_texts_are_asked_about_once_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCH_TEXTS", 2)
    endpoint = Endpoint({"query: a": [1, 0], "query: b": [0, 2], "query: c": [3, 3]})
    embedder = Embedder(endpoint, "fp", prefix="query: ")
    found = embedder.embed([Source(text, {"item_id": text}) for text in "abcb"])
    assert found.vectors == pytest.approx(np.array([[1, 0], [0, 1], unit(1, 1), [0, 1]]), abs=1e-3)
    assert [one.origin for one in endpoint.asked] == [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "c"}]
    assert found.keys[1] == found.keys[3] == (endpoint.asked[1].key,)
    embedder.embed([Source("c"), Source("a")])
    assert len(endpoint.asked) == 3


def test_a_long_text_is_the_mean_of_its_pieces() -> None:
    endpoint = Endpoint({"a" * 60: [1, 0], "b" * 60: [0, 1]})
    found = Embedder(endpoint, "fp", max_chars=100).embed([Source("a" * 60 + "b" * 60)])
    assert found.vectors == pytest.approx(np.array([unit(1, 1)]), abs=1e-3)
    assert len(found.keys[0]) == 2


def test_a_text_whose_vector_is_missing_is_named() -> None:
    found = Embedder(Endpoint({"a": [1, 0]}), "fp").embed([Source("a"), Source("b"), Source("")])
    assert found.missing == {1, 2}
    assert Embedder(Endpoint({}), "fp").embed([]).vectors.shape[0] == 0


def test_two_models_behind_one_name_are_an_error() -> None:
    with pytest.raises(TeacherError, match="2 and 3 numbers"):
        Embedder(Endpoint({"a": [1, 0], "b": [1, 0, 0]}), "fp").embed([Source("a"), Source("b")])


# --- alike ---


def plainly(vectors: Vectors, threshold: float) -> list[tuple[int, int]]:
    """Return what `alike` must find, by its definition."""
    found: dict[int, int] = {}
    for place in range(len(vectors)):
        near = (
            first
            for first in range(place)
            if first not in found and float(vectors[place] @ vectors[first]) >= threshold
        )
        if (first := next(near, None)) is not None:
            found[place] = first
    return sorted(found.items())


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 40),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    threshold=st.sampled_from([0.3, 0.7, 0.95]),
)
def test_the_first_of_those_alike_is_found_whatever_the_blocks(
    seed: int, count: int, rows: int, columns: int, threshold: float
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 3)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosines = vectors @ vectors.T
    if np.any(np.abs(cosines - threshold) < 1e-5):
        return  # whether such a pair is alike depends on how the product is rounded
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embeddings, "ROWS", rows)
        patched.setattr(embeddings, "COLUMNS", columns)
        found = alike(vectors, threshold)
    assert sorted((one.place, one.first) for one in found) == plainly(vectors, threshold)
    for one in found:
        assert one.cosine == pytest.approx(float(cosines[one.place, one.first]), abs=1e-6)


def test_the_likest_reference_comes_first() -> None:
    references = np.array([unit(1, 1), unit(1, 0), unit(0, 1)], np.float32)
    queries = np.array([unit(1, 0.1), unit(-1, 0)], np.float32)
    ((place, near),) = likest(queries, references, 0.7)
    assert place == 0
    assert [which for which, _ in near] == [1, 0]
    assert list(likest(queries, references[:0], 0.7)) == []
