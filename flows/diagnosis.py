"""Why a model failed what it failed: by document, and by where a fact was lost between document and student."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import list_datasets, read_rows
from data_catalog.errors import ConfigError, RegistryError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Document, Item, Outcome
from data_catalog.registry import Registry
from data_catalog.text import answer_words, contains_words, normalise_answer
from generators.filters.base import answer_of
from generators.filters.nearest import NearestChunks

SHOWN = 20
"""Documents and questions that the text names."""
TOPICS_SHOWN = 5
"""Topics that the text names of each document."""
NEAREST = 5
"""Chunks in which a right answer is looked for."""


class Cause(StrEnum):
    """Where the fact was lost."""

    NEVER_GENERATED = "never generated"
    """No item on the document has this answer: the teacher did not ask for it, or its answer could not be read."""
    REJECTED = "rejected"
    """Items with this answer were made, and the checks took all of them."""
    NOT_TRAINED = "not trained on"
    """Accepted items have this answer, but no stage's dataset holds one (held out, or another recipe or part)."""
    NOT_LEARNED = "not learned"
    """The model was trained on this answer about this document and gives another one."""
    NO_DOCUMENT = "no document"
    """No document has a word in common with the question."""


@dataclass(frozen=True)
class Failure:
    """A sample that the model failed."""

    score: SampleScore
    document: str
    """Path of the document that is nearest to the question."""
    cause: Cause
    check: str
    """The check that rejected most of the items, where that is the cause."""
    document_id: str = ""
    chunk_id: str = ""
    """The chunk nearest to the question that states a right answer; empty where none of the nearest does."""
    topic: str = ""
    """Headings of that chunk, or else of the one nearest to the question."""


@dataclass(frozen=True)
class Diagnosis:
    """All failures of a model in one suite."""

    suite: str
    samples: int
    failures: tuple[Failure, ...]

    def lines(self) -> Iterator[str]:
        """Yield the diagnosis as text."""
        yield f"{self.suite}: {len(self.failures):,} of {self.samples:,} samples failed"
        causes = Counter((failure.cause, failure.check) for failure in self.failures)
        for (cause, check), count in causes.most_common():
            yield f"  {count:>6,}  {cause}{f' by {check}' if check else ''}"
        if not self.failures:
            return
        yield "by document and topic"
        documents: dict[str, Counter[Cause]] = defaultdict(Counter)
        topics: dict[str, Counter[str]] = defaultdict(Counter)
        for failure in self.failures:
            documents[failure.document or "(none)"][failure.cause] += 1
            topics[failure.document or "(none)"][failure.topic] += 1
        worst = sorted(documents.items(), key=lambda entry: (-entry[1].total(), entry[0]))
        for path, found in worst[:SHOWN]:
            yield f"  {found.total():>6,}  {path}  ({', '.join(f'{cause} {n}' for cause, n in found.most_common())})"
            ranked = [(topic, count) for topic, count in topics[path].most_common() if topic]
            yield from (f"          {count:>6,}  {topic}" for topic, count in ranked[:TOPICS_SHOWN])
            if len(ranked) > TOPICS_SHOWN:
                yield f"                  and {len(ranked) - TOPICS_SHOWN:,} more topics"
        if len(worst) > SHOWN:
            yield f"          and {len(worst) - SHOWN:,} more documents"
        yield "for example"
        for failure in self.failures[:SHOWN]:
            right = " / ".join(failure.score.answers) or "to abstain"
            yield f"  {failure.score.question}"
            yield f"          said {failure.score.completion.strip()!r}, right is {right!r}: {failure.cause}"


def diagnose(home: Path, name: str, suite: str) -> Diagnosis:
    """Say why the model version `name` (an id, the beginning of one, or a stage) failed samples of `suite`.

    Raises:
        RegistryError: no version has that name, or its stages are not recorded.
        ConfigError: the model was never scored on the suite.
    """
    catalogue = Catalogue(home)
    version = Registry(catalogue).show(name).version
    stages = version.lineage.get("stages") or []
    if not stages:
        raise RegistryError(
            f"{version.id} has no training stages on record", next_step="diagnose a model that `tutelage run` made"
        )
    scores = catalogue.scores(str(stages[-1]["model"]), suite)
    if not scores:
        raise ConfigError(
            f"{version.id} has no scores on suite {suite!r}",
            valid="a suite of the configuration that it was trained with",
            next_step="name it with --suite",
        )
    return diagnose_scores(catalogue, suite, scores, [str(stage["dataset_id"]) for stage in stages])


def diagnose_scores(
    catalogue: Catalogue, suite: str, scores: Sequence[SampleScore], datasets: Sequence[str]
) -> Diagnosis:
    """Say why a model failed samples of a suite; `datasets` are the ids of the versions that it was trained on."""
    search = _Search(catalogue, datasets)
    failed = [score for score in scores if score.outcome is not Outcome.UNSCORED and (score.score or 0.0) < 1.0]
    return Diagnosis(suite, len(scores), tuple(search.failure(score) for score in failed))


class _Search:
    """What was made of each document: items, verdicts, and rows that were trained on."""

    def __init__(self, catalogue: Catalogue, datasets: Sequence[str]) -> None:
        chunks = catalogue.chunks()
        self._documents: Mapping[str, Document] = {document.id: document for document in catalogue.documents()}
        self._nearest = NearestChunks(chunks)
        self._items: dict[str, list[Item]] = defaultdict(list)
        for item in catalogue.items():
            if item.document_id is not None and answer_of(item):
                self._items[item.document_id].append(item)
        self._faults: dict[str, str] = {}
        for verdict in catalogue.verdicts():
            if verdict.outcome is not Outcome.PASSED:
                self._faults.setdefault(verdict.item_id, verdict.check)
        paths = [entry.path for entry in list_datasets(catalogue) if entry.id in datasets]
        self._trained = {str(row["id"]) for path in paths for row in read_rows(catalogue.home / path)}

    def failure(self, score: SampleScore) -> Failure:
        """Find out where the answer of a failed sample was lost."""
        near = self._nearest.of(score.question, NEAREST, outside=None)
        if not near or near[0].document_id not in self._documents:
            return Failure(score, "", Cause.NO_DOCUMENT, "")
        document = self._documents[near[0].document_id]
        items = [item for item in self._items[document.id] if _answers(item, score)]
        cause, check = self._cause(items)
        stating = next((chunk for chunk in near if _states(answer_words(chunk.text), score)), None)
        topic = " > ".join((stating or near[0]).heading_path)
        return Failure(score, document.path, cause, check, document.id, stating.id if stating else "", topic)

    def _cause(self, items: Sequence[Item]) -> tuple[Cause, str]:
        if not items:
            return Cause.NEVER_GENERATED, ""
        if any(item.id in self._trained for item in items):
            return Cause.NOT_LEARNED, ""
        faults = Counter(self._faults[item.id] for item in items if item.id in self._faults)
        if faults.total() < len(items):
            return Cause.NOT_TRAINED, ""
        # Of duplicates one was kept, and went on: what became of that one is the cause.
        deciding = Counter({check: count for check, count in faults.items() if "duplicate@" not in check})
        return Cause.REJECTED, (deciding or faults).most_common(1)[0][0]


def _answers(item: Item, score: SampleScore) -> bool:
    """Say whether an item gives the sample's gold answer; of a sample without one, whether it abstains."""
    if not score.answers:
        return item.meta.get("answerable") is False
    return _states(answer_words(answer_of(item)), score)


def _states(said: Sequence[str], score: SampleScore) -> bool:
    return any(
        normalise_answer(gold) == " ".join(said) or contains_words(said, answer_words(gold)) for gold in score.answers
    )
