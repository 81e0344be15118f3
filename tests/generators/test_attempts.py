"""In which order requests are sent, and to whom."""

from __future__ import annotations

from itertools import groupby

from data_catalog.records import FailureKind, Message, Request, RequestFailure, Sampling
from generators.attempts import SUSPECT_DEATHS, AttemptQueue
from generators.budget import ErrorBudget
from generators.engine import open_requests
from tests.generators.helpers import handbook, requests_for
from tests.generators.test_engine import Store


def request(chunk: str, number: int) -> Request:
    return Request(
        model="m",
        messages=(Message(role="user", content=f"{chunk} {number}"),),
        sampling=Sampling(),
        template="t#1",
        origin={"chunk_id": chunk},
    )


def groups(count: int, size: int) -> list[Request]:
    return [request(f"chunk-{group}", number) for group in range(count) for number in range(size)]


def drain(queue: AttemptQueue, *endpoints: str) -> list[tuple[str, str]]:
    """Let the endpoints take turns; return (endpoint, chunk)."""
    taken: list[tuple[str, str]] = []
    while True:
        for endpoint in endpoints:
            attempt = queue.take(endpoint, 0.0)
            if attempt is None:
                return taken
            taken.append((endpoint, attempt.request.origin["chunk_id"]))


def test_an_endpoint_gets_whole_groups_and_helps_with_anothers_at_the_end() -> None:
    taken = drain(AttemptQueue(groups(5, 4)), "a", "b")
    assert len(taken) == 20
    by_chunk = {chunk: {endpoint for endpoint, of in taken if of == chunk} for _, chunk in taken}
    assert [len(endpoints) for endpoints in by_chunk.values()] == [1, 1, 1, 1, 2]


def test_every_template_of_the_product_keeps_the_prompts_of_a_chunk_together() -> None:
    documents = [handbook(), handbook("# Brixal\n\nThe Brixal 12 weighs 40 kg. It has two wheels of steel.\n", "b.md")]
    asked = [
        request for recipe in ("grounded_qa", "paraphrase") for request in requests_for(recipe, documents, samples=2)
    ]
    order = open_requests(reversed(asked), Store([])).to_ask
    of = [(request.template, request.origin["chunk_id"]) for request in order]
    assert len(of) == len(asked)
    assert len([key for key, _ in groupby(of)]) == len(set(of)), "each template and chunk is one stretch"


def test_a_retry_goes_first_when_its_pause_is_over() -> None:
    queue = AttemptQueue(groups(1, 3))
    first = queue.take("a", 0.0)
    assert first is not None
    queue.put_back(first, ready_at=10.0)
    second = queue.take("a", 9.9)
    assert second is not None
    assert second is not first
    assert queue.next_ready() == 10.0
    assert queue.take("a", 10.0) is first


def test_a_suspect_waits_until_nothing_else_is_left() -> None:
    queue = AttemptQueue(groups(1, 3))
    suspect = queue.take("a", 0.0)
    assert suspect is not None
    suspect.deaths = SUSPECT_DEATHS
    queue.put_back(suspect, ready_at=0.0)
    assert queue.take_suspect() is None
    assert len(drain(queue, "a")) == 2
    assert not queue.is_empty
    assert queue.take_suspect() is suspect
    assert queue.is_empty


def test_what_failed_in_an_earlier_run_comes_last_and_suspects_of_it_alone() -> None:
    asked = groups(1, 4)
    queue = AttemptQueue(asked, suspects={asked[0].key}, last={asked[0].key, asked[1].key})
    order = [queue.take("a", 0.0) for _ in range(3)]
    assert [attempt.request for attempt in order if attempt] == [asked[2], asked[3], asked[1]]
    alone = queue.take_suspect()
    assert alone is not None
    assert alone.request == asked[0]


def test_the_budget_is_a_share_of_the_last_requests_and_of_all() -> None:
    budget = ErrorBudget(0.2, 50, 100_000)
    said = [budget.ended(str(number), failed=number >= 1000 and number % 2 == 0) for number in range(1100)]
    spent = [number for number, text in enumerate(said) if text]
    assert spent[0] == 1020, "ten of the last fifty are allowed, the eleventh is not"
    assert said[1020] == "11 of the last 50 requests"
    small = ErrorBudget(0.2, 50, 20)
    assert [small.ended(str(number), failed=True) for number in range(5)][3:] == ["", "5 of 20 requests"]
    unlimited = ErrorBudget(1.0, 50, 20)
    assert not any(unlimited.ended(str(number), failed=True) for number in range(20))


def test_what_failed_before_does_not_count_in_the_window() -> None:
    known = [str(number) for number in range(30)]
    budget = ErrorBudget(0.2, 50, 1000, known)
    assert not any(budget.ended(key, failed=True) for key in known)


def test_quarantined_requests_are_not_asked() -> None:
    store = Store([])
    asked = groups(1, 3)
    failure = RequestFailure(request_key=asked[1].key, kind=FailureKind.QUARANTINED, reason="kills", attempts=9)
    store.add_request_failures([asked[1]], [failure])
    found = open_requests(asked, store)
    assert list(found.to_ask) == [asked[0], asked[2]]
    assert found.failed == {asked[1].key: FailureKind.QUARANTINED}
