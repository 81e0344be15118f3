"""A few chunks through the whole chain of data, and what that lets one expect of the whole job.

The answers are kept like any others: the run that follows does not ask for them again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_catalog.errors import DataError
from data_catalog.identity import digest
from data_catalog.records import Chunk, Completion, Item, Outcome, Verdict
from evaluation.statistics import Interval, wilson
from evaluation.suites import load_suite, questions
from flows.config import Config
from flows.context import RunContext
from flows.data_steps import Ingested, ingest
from flows.generation import Curation, Wanted, generate, generation_requests
from flows.pipeline import open_run
from flows.progress import Reporter
from generators.filters.base import answer_of, question_of, text_of
from generators.filters.calibration import Calibration
from generators.refill import Supply


@dataclass(frozen=True)
class PreviewItem:
    """One item of the preview and what the checks said."""

    item: Item
    path: str
    fault: str
    """The check that stopped it and why; empty for an accepted item."""


@dataclass(frozen=True)
class RecipeForecast:
    """What one recipe gave, and what it may give."""

    recipe: str
    tried: int
    """Requests of the preview."""
    accepted: int
    requests: int
    """Requests of the whole job, before anything is asked again for a target; what follows on the answers of a recipe's
    first step is put at as many as in the preview."""

    @property
    def expected(self) -> Interval:
        """Accepted items of the whole job, 95 % on either side: Wilson's bounds of the share, times the requests."""
        share = wilson(min(1.0, self.accepted / self.tried), self.tried)
        return Interval(share.lower * self.requests, share.upper * self.requests)


@dataclass(frozen=True)
class Preview:
    """A few chunks' worth of the job."""

    chunks: int
    of_chunks: int
    items: tuple[PreviewItem, ...]
    unparsed: Counter[str]
    calibration: Calibration | None
    recipes: tuple[RecipeForecast, ...]
    asked: int
    """Requests sent now, checks included."""
    seconds: float
    checks_per_request: float
    tokens_per_request: tuple[float, float]
    """Of prompt and answer, means over the preview's generation requests."""

    def lines(self) -> Iterator[str]:
        """Yield the preview as text."""
        for shown in self.items:
            yield f"{shown.item.recipe}  {shown.path}  {'accepted' if not shown.fault else f'rejected: {shown.fault}'}"
            question = question_of(shown.item)
            yield from ((f"  Q  {question}", f"  A  {answer_of(shown.item)}") if question else ())
            yield from (() if question else (f"  T  {text_of(shown.item)}",))
        for reason, count in self.unparsed.most_common():
            yield f"no item from {count:,} answers: {reason}"
        if self.calibration is not None:
            yield str(self.calibration)
        yield ""
        yield f"seen       {self.chunks:,} of {self.of_chunks:,} chunks"
        for recipe in self.recipes:
            expected = recipe.expected
            yield (
                f"{recipe.recipe:<20} {recipe.accepted:,} of {recipe.tried:,} requests accepted; the job's "
                f"{recipe.requests:,} may give {expected.lower:,.0f} to {expected.upper:,.0f}"
            )
        requests = sum(recipe.requests for recipe in self.recipes)
        checks = round(requests * self.checks_per_request)
        prompt, answer = (round(mean * requests) for mean in self.tokens_per_request)
        yield f"requests   {requests:,}, and about {checks:,} for the checks"
        yield f"tokens     about {prompt:,} of prompts and {answer:,} of answers, without the checks"
        if self.asked:
            seconds = (requests + checks) * self.seconds / self.asked
            yield f"time       about {seconds / 60:,.1f} min at the pace of this preview; a long job is faster"


def preview(config: Config, reporter: Reporter, chunks: int) -> Preview:
    """Generate and curate from a few chunks, spread over the documents; the answers are kept.

    Raises:
        DataError: there is nothing to ask about.
    """
    # A preview is of the whole job, and asks about chunks that no target has to name.
    config = config.model_copy(update={"generate": config.generate.model_copy(update={"targets": ()})})
    with open_run(config, reporter, "tutelage preview") as ctx:
        ingested = ingest(ctx)
        chosen = _spread(ingested, chunks)
        if not chosen:
            raise DataError(
                "the documents have no chunks", next_step="look at what was left out: tutelage check CONFIG"
            )
        whole = generation_requests(ctx, ingested, Supply(ctx.config.generate.recipes))
        wanted = _about(whole, chosen)
        if not wanted:
            raise DataError("no recipe asks about these chunks", next_step="see generate.recipes")
        return _previewed(ctx, ingested, len(chosen), whole, wanted)


def _spread(ingested: Ingested, count: int) -> list[Chunk]:
    """Return chunks of different documents first, the same ones each time."""
    of_document: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in sorted(ingested.chunks, key=lambda chunk: digest(["preview", chunk.id])):
        of_document[chunk.document_id].append(chunk)
    ranked = [(place, chunk) for chunks in of_document.values() for place, chunk in enumerate(chunks)]
    ranked.sort(key=lambda pair: (pair[0], digest(["preview", pair[1].id])))
    return [chunk for _, chunk in ranked[:count]]


def _about(whole: Sequence[Wanted], chunks: Sequence[Chunk]) -> list[Wanted]:
    """Return the requests on these chunks, and those on their documents as a whole."""
    ids, documents = {chunk.id for chunk in chunks}, {chunk.document_id for chunk in chunks}
    return [
        entry
        for entry in whole
        if not ids.isdisjoint((entry.request.origin.get("chunk_id"), *entry.request.origin.get("chunk_ids", ())))
        or (entry.request.origin.get("chunk_id") is None and entry.request.origin.get("document_id") in documents)
    ]


def _previewed(
    ctx: RunContext, ingested: Ingested, chunks: int, whole: Sequence[Wanted], wanted: Sequence[Wanted]
) -> Preview:
    asked_by_suites = [
        question for name, spec in ctx.config.suites.items() for question in questions(load_suite(name, spec))
    ]
    ctx.teacher.wait()
    started = time.monotonic()
    generated = generate(ctx, wanted)
    curated = Curation(ctx, ingested, asked_by_suites).judge(generated.items)
    seconds = time.monotonic() - started
    calibration = curated.report.calibration
    checks = curated.asked + curated.cached - (sum(calibration.planted.values()) if calibration else 0)
    first_keys = [entry.request.key for entry in wanted]
    completions = ctx.catalogue.answered([*first_keys, *(key for item in generated.items for key in item.request_keys)])
    paths = {document.id: document.path for document in ingested.documents}
    fault_of = {said.item_id: said for said in reversed(curated.verdicts) if said.outcome is not Outcome.PASSED}
    accepted = Counter(item.recipe for item in curated.accepted)
    first = Counter(entry.recipe for entry in wanted)
    tried = {counts.recipe: counts.requests for counts in generated.recipes}
    return Preview(
        chunks=chunks,
        of_chunks=len(ingested.chunks),
        items=tuple(
            PreviewItem(item, paths.get(item.document_id or "", ""), _fault(fault_of.get(item.id)))
            for item in generated.items
        ),
        unparsed=Counter(generated.unparsed),
        calibration=calibration,
        recipes=tuple(
            RecipeForecast(recipe, tried[recipe], accepted[recipe], round(count * tried[recipe] / first[recipe]))
            for recipe, count in Counter(entry.recipe for entry in whole).items()
            if first[recipe]
        ),
        asked=generated.asked + curated.asked,
        seconds=seconds,
        checks_per_request=checks / sum(tried.values()),
        tokens_per_request=_means(list(completions.values())),
    )


def _fault(verdict: Verdict | None) -> str:
    return "" if verdict is None else f"{verdict.check} {verdict.reason}"


def _means(completions: Sequence[Completion]) -> tuple[float, float]:
    count = max(1, len(completions))
    return (
        sum(completion.prompt_tokens for completion in completions) / count,
        sum(completion.completion_tokens for completion in completions) / count,
    )
