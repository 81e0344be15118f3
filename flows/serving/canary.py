"""The canary set: questions that a freshly loaded version must still answer as it did when its gate judged it.

It finds what a gate can't: a backend that loads the weights wrongly, a chat template that got lost, numbers that the
machine's arithmetic makes different. It is no second evaluation; the questions are few and were answered right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.records import Message, ModelVersion, Outcome
from data_catalog.registry import Registry
from data_catalog.text import answer_words, contains_words, normalise_answer
from evaluation.scorers.stop import Stop
from evaluation.specs import SuiteSpec
from evaluation.suites import PURPOSE, load_suite
from flows.serving.backends import Backend
from flows.serving.wire import ApiError, answer_text

SAMPLES = 16
REQUIRED_SHARE = 0.9
"""Of the canary set that must be right. Below 1: another backend or batch rounds otherwise; a close call may flip."""
AT_ONCE = 8
MAX_TOKENS = 64
LIVENESS = Message(role="user", content="?")
"""Asked where there is no canary set: it shows that the model answers, nothing more."""


@dataclass(frozen=True)
class Probe:
    """One question of the canary set."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    """Any one of these, somewhere in the answer, is right."""
    said: str = ""
    """What the version answered when it was gated; the same again is right too."""
    max_tokens: int = MAX_TOKENS

    def accepts(self, text: str) -> bool:
        """Whether an answer is right; where nothing is expected, whether there is one."""
        if not self.answers and not self.said:
            return bool(text.strip())
        if self.said and normalise_answer(text) == normalise_answer(self.said):
            return True
        found = answer_words(text)
        return any(contains_words(found, answer_words(answer)) for answer in self.answers)


@dataclass(frozen=True)
class CanarySet:
    """The questions, and where they come from."""

    probes: tuple[Probe, ...]
    source: str


@dataclass(frozen=True)
class CanaryResult:
    """What came of asking."""

    asked: int
    right: int
    required: float
    source: str
    wrong: tuple[str, ...] = ()
    """For each wrong answer, a line with question and answer."""

    @property
    def passed(self) -> bool:
        """Whether enough was right."""
        return self.right >= self.required * self.asked

    @property
    def sentence(self) -> str:
        """The result in one line, with the first wrong answer."""
        first = f"; for example {self.wrong[0]}" if self.wrong else ""
        return f"{self.right} of {self.asked} canary answers right ({self.source}){first}"


def canary_from_file(path: Path, samples: int = SAMPLES) -> CanarySet:
    """Read a canary set from JSONL in the form of a suite; a row without `answers` only has to be answered.

    Raises:
        DataError: the file can't be read or has bad rows.
    """
    suite = load_suite("canary", SuiteSpec(path=path, scorer=Stop(), limit=samples))
    return CanarySet(tuple(Probe(sample.messages, sample.answers) for sample in suite.samples), str(path))


def canary_from_gate(catalogue: Catalogue, version: ModelVersion, samples: int = SAMPLES) -> CanarySet:
    """Return samples of the gate's first suite that the version answered right, as they were asked.

    Spread over the suite. Where its gate left no such answers (a version registered by hand, say), the set only shows
    that the model answers.
    """
    stages = version.lineage.get("stages") or [{}]
    model = str(stages[-1].get("model") or "")
    for suite in _gate_suites(catalogue, version):
        found = list(_right(catalogue, model, suite))
        if found:
            step = max(1, len(found) // samples)
            return CanarySet(tuple(found[::step][:samples]), f"suite {suite}, answered right at the gate")
    return CanarySet((Probe((LIVENESS,)),), "no gated answers on record: only that it answers")


def _gate_suites(catalogue: Catalogue, version: ModelVersion) -> list[str]:
    """Return the suites of the last gate in its order, then what else the version has scores on."""
    gates = Registry(catalogue).show(version.id).gates
    stages = version.lineage.get("stages") or [{}]
    last = stages[-1].get("gate_id")
    named = [
        str(entry["suite"]) for gate in gates if gate.id == last for entry in gate.comparisons if entry.get("suite")
    ]
    return list(dict.fromkeys([*named, *catalogue.scored_suites(str(stages[-1].get("model") or ""))]))


def _right(catalogue: Catalogue, model: str, suite: str) -> Iterator[Probe]:
    """Yield what was answered right, that with expected answers first: there another wording may be right, too."""
    asked = {
        str(request.origin.get("sample_id")): request
        for request in reversed(catalogue.requests_to(model, PURPOSE))
        if request.origin.get("suite") == suite
    }
    scores = catalogue.scores(model, suite)
    for score in sorted(scores, key=lambda score: not score.answers):
        request = asked.get(score.sample_id)
        if request is None or score.outcome is not Outcome.PASSED or not score.completion.strip():
            continue
        yield Probe(request.messages, score.answers, score.completion, request.sampling.max_tokens)


def ask(backend: Backend, canary: CanarySet, required: float = REQUIRED_SHARE) -> CanaryResult:
    """Put the canary set to a backend, greedily; an error is a wrong answer."""

    def one(probe: Probe) -> str | None:
        """Return what is wrong, None where nothing is."""
        body = {
            "model": "canary",
            "messages": [message.model_dump() for message in probe.messages],
            "max_tokens": probe.max_tokens,
            "temperature": 0,
        }
        try:
            text = answer_text(backend.chat(body))
        except ApiError as error:
            text = f"error: {error.message}"
        else:
            if probe.accepts(text):
                return None
        return f"{probe.messages[-1].content[:80]!r} -> {text.strip()[:80]!r}{_expected(probe)}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [line for line in pool.map(one, canary.probes) if line is not None]
    asked = len(canary.probes)
    return CanaryResult(asked, asked - len(wrong), required, canary.source, tuple(wrong))


def _expected(probe: Probe) -> str:
    expected: Sequence[str] = probe.answers or ([probe.said] if probe.said else [])
    return f" instead of {' / '.join(expected)[:80]!r}" if expected else ""
