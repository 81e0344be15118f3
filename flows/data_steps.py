"""Documents in, dataset versions out: the steps ingest, generate and curate, and the datasets of each stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from data_catalog.catalogue import DocumentDiff
from data_catalog.datasets import write_dataset
from data_catalog.errors import DataError
from data_catalog.exclusions import Exclusion, exclusion_of, list_exclusions
from data_catalog.identity import digest
from data_catalog.records import Chunk, Completion, DatasetVersion, Document, Item, Kind, Request, Split, Verdict
from flows.config import StageConfig
from flows.context import RunContext
from flows.document_parser import document_parser
from generators.chunks import cut
from generators.documents import ReadResult, Refusal, Remark, read_documents
from generators.documents.results import counted, endings
from generators.engine import AnswerReport, answer_all
from generators.filters.calibration import demand_recall
from generators.filters.pipeline import CurateReport, curate, demand_minimum
from generators.recipes import build_requests, document_text_items, parse
from generators.recipes.base import ParseFailure
from generators.refill import Supply
from generators.tokens import load_counter
from generators.withholding import Open, withhold
from training.compatibility import PREFERENCE

STAGE_RECIPES: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("paraphrase",),
    "sft": ("grounded_qa", "unanswerable"),
    "ppo": ("grounded_qa", "unanswerable"),
    **dict.fromkeys(sorted(PREFERENCE), ("grounded_qa", "unanswerable")),
}
"""Which accepted items a stage trains on unless its `data.recipes` says otherwise."""

MAX_NOTES = 20
"""Lines of one kind that the ingest step writes."""


@dataclass(frozen=True)
class Ingested:
    """The documents as they stand now, without what is withheld (`documents.withhold_sensitive`)."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    refusals: tuple[Refusal, ...]
    diff: DocumentDiff
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class RecipeCounts:
    """What became of one recipe's requests."""

    recipe: str
    requests: int
    answered: int
    truncated: int
    """Answers that met the token limit; they count as answered and give no item."""


@dataclass(frozen=True)
class Generated:
    """What the teacher's answers came to."""

    items: tuple[Item, ...] = ()
    recipes: tuple[RecipeCounts, ...] = ()
    unparsed: Mapping[str, int] = field(default_factory=dict)
    """Why answers gave no item, and how often."""
    declined: frozenset[str] = frozenset()
    """Keys of requests to which the teacher said that there is nothing to ask about."""
    asked: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Wanted:
    """A request, and the recipe that it is for."""

    place: int
    """Of the recipe in `generate.recipes`."""
    recipe: str
    request: Request


@dataclass(frozen=True)
class Curated:
    """What the filters said of the items."""

    accepted: tuple[Item, ...] = ()
    """In the order of their requests."""
    report: CurateReport = field(default_factory=CurateReport)
    asked: int = 0
    cached: int = 0

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Every verdict on every item."""
        return self.report.verdicts


def ingest(ctx: RunContext) -> Ingested:
    """Read, cut and store the documents. Always done: only reading tells whether something changed."""
    spec = ctx.config.documents
    ctx.reporter.step_started("ingest")
    on_progress = partial(ctx.reporter.step_progress, "ingest", detail="files parsed")
    read = without_excluded(
        read_documents(spec, document_parser(ctx.home, on_progress)), list_exclusions(ctx.catalogue)
    )
    count_tokens = load_counter(ctx.config.student.model)
    chunks = [chunk for document in read.documents for chunk in cut(document, spec, count_tokens)]
    refused = [(refusal.path, refusal.reason) for refusal in read.refusals]
    diff = ctx.catalogue.sync_documents(read.documents, chunks, refused)
    ctx.reporter.step_done("ingest", _ingest_line(len(read.documents), len(chunks), diff, len(refused)))
    seen = withhold(read.documents, chunks, spec.withhold_sensitive)
    for line in ingest_notes(read, seen):
        ctx.reporter.note(line)
    return Ingested(seen.documents, seen.chunks, read.refusals, diff, read.remarks)


def without_excluded(read: ReadResult, exclusions: Sequence[Exclusion]) -> ReadResult:
    """Return what was read without the documents that are excluded, which are refused by name."""
    kept, refused = [], []
    for document in read.documents:
        exclusion = exclusion_of(document, exclusions)
        if exclusion is None:
            kept.append(document)
            continue
        day = f"{datetime.fromtimestamp(exclusion.excluded_at, UTC):%Y-%m-%d}"
        reason = f"excluded by `tutelage forget` on {day} ({exclusion.actor}); --undo takes it back"
        refused.append(Refusal(document.path, reason))
    return replace(read, documents=tuple(kept), refusals=(*read.refusals, *refused))


def _ingest_line(documents: int, chunks: int, diff: DocumentDiff, refused: int) -> str:
    changes = [
        f"{count:,} {word}"
        for word, count in (
            ("new", len(diff.added)),
            ("changed", len(diff.changed)),
            ("withdrawn", len(diff.removed)),
            ("refused", refused),
        )
        if count
    ]
    return f"{documents:,} documents, {chunks:,} chunks" + (f" ({', '.join(changes)})" if changes else "")


def ingest_notes(read: ReadResult, seen: Open) -> Iterator[str]:
    """Yield what a user should know of the documents that were read, and of what was not, or will not be used."""
    yield from _first([f"left out {refusal.path}: {refusal.reason}" for refusal in read.refusals], "more were left out")
    yield from _first([f"{remark.path}: {remark}" for remark in read.remarks], "more documents have remarks like these")
    removed: Counter[str] = Counter()
    for remark in read.remarks:
        removed.update(remark.removed)
    if removed:
        affected = sum(bool(remark.removed) for remark in read.remarks)
        of_all = f"{affected:,} of {len(read.documents):,} documents"
        yield f"text that no reader sees was removed from {of_all}: {counted(removed)}"
    if seen.withheld:
        kinds = ", ".join(f"{kind} in {count:,}" for kind, count in seen.kinds.items())
        yield f"withheld {seen.withheld:,} chunks with personal data or secrets: {kinds} (documents.withhold_sensitive)"
    if read.not_included:
        yield f"not looked at: {endings(read.not_included)} (documents.include)"


def _first(lines: Sequence[str], rest: str) -> Iterator[str]:
    yield from lines[:MAX_NOTES]
    if len(lines) > MAX_NOTES:
        yield f"{len(lines) - MAX_NOTES:,} {rest}; the report has them all"


def generation_requests(ctx: RunContext, ingested: Ingested, supply: Supply) -> list[Wanted]:
    """Render every prompt of every recipe, in a fixed order; `supply` says which subjects get more samples."""
    count_tokens = load_counter(ctx.config.student.model)
    wanted = []
    for place, spec in enumerate(ctx.config.generate.recipes):
        requests = build_requests(
            spec,
            ingested.documents,
            ingested.chunks,
            teacher_fingerprint=ctx.teacher.fingerprint,
            count_tokens=count_tokens,
            context_tokens=ctx.config.generate.context_tokens,
            unknown_answer=ctx.config.student.answer_unknown,
            samples_of=supply.of(place),
        )
        wanted += [Wanted(place, spec.recipe, request) for request in requests]
    return wanted


def generate_and_curate(
    ctx: RunContext, ingested: Ingested, wanted: Sequence[Wanted], supply: Supply, questions: Sequence[str]
) -> tuple[Generated, Curated]:
    """Ask, parse and judge; and again for what fell short of its recipe's target, until nothing more can be asked.

    Raises:
        DataError: the judge let too many planted answers pass, or fewer items were accepted than
            `curate.minimum_items`.
    """
    asked = judged = 0
    reused: tuple[int, int] | None = None
    while True:
        generated = generate(ctx, wanted)
        curated = curate_items(ctx, ingested, generated.items, questions)
        if ctx.config.curate.judge is not None:
            demand_recall(curated.report.calibration, ctx.config.curate.judge.min_recall)
        # What earlier rounds asked counts as asked, though this one found it answered.
        asked, judged = asked + generated.asked, judged + curated.asked
        reused = reused or (generated.cached, curated.cached)
        of_recipe: dict[int, list[Request]] = {}
        for entry in wanted:
            of_recipe.setdefault(entry.place, []).append(entry.request)
        lacking = supply.grow(of_recipe, curated.accepted, generated.declined)
        if not lacking:
            break
        for place, count in lacking.items():
            spec = ctx.config.generate.recipes[place]
            ctx.reporter.note(f"{spec.recipe}: {count:,} subjects have fewer than {spec.target} accepted: asked again")
        wanted = generation_requests(ctx, ingested, supply)
    # The checks of an early round need not be those of the last: what was there before this run is at least what the
    # first round found.
    generated = replace(generated, asked=asked, cached=max(reused[0], generated.asked + generated.cached - asked))
    curated = replace(curated, asked=judged, cached=max(reused[1], curated.asked + curated.cached - judged))
    if curated.report.calibration is not None:
        ctx.reporter.note(str(curated.report.calibration))
    demand_minimum(curated.report, ctx.config.curate.minimum_items)
    return generated, curated


def generate(ctx: RunContext, wanted: Sequence[Wanted]) -> Generated:
    """Ask what was never asked, parse every answer, store the items."""
    ctx.reporter.step_started("generate", f"{len(wanted):,} requests")
    report = answer_all(
        [entry.request for entry in wanted],
        ctx.teacher,
        ctx.catalogue,
        batch_size=ctx.config.generate.batch_size,
        on_progress=lambda done, total: ctx.reporter.step_progress("generate", done, total),
    )
    items: dict[str, Item] = {}
    unparsed: Counter[str] = Counter()
    declined = set()
    for entry in wanted:
        completion = report.completions.get(entry.request.key)
        if completion is None:
            continue
        parsed = parse(entry.request, completion)
        if isinstance(parsed, ParseFailure):
            unparsed[parsed.reason] += 1
            if parsed.declined:
                declined.add(entry.request.key)
        else:
            items.setdefault(parsed.id, parsed)
    ctx.catalogue.add_items(list(items.values()))
    line = f"{len(items):,} items from {len(report.completions):,} answers"
    ctx.reporter.step_done("generate", line, cached=report.asked == 0)
    for line in _missing(report):
        ctx.reporter.note(line)
    return Generated(
        items=tuple(items.values()),
        recipes=tuple(_recipe_counts(wanted, report.completions)),
        unparsed=unparsed,
        declined=frozenset(declined),
        asked=report.asked,
        cached=report.cached,
    )


def _missing(report: AnswerReport) -> Iterator[str]:
    """Yield what a user should know of requests without an answer."""
    if report.failed:
        yield f"{report.failed:,} requests got no answer; the next run asks them again"
    if report.quarantined:
        yield (
            f"{report.quarantined:,} requests are quarantined and not asked again: `tutelage requests` says why, and "
            "with --release lets the next run ask them"
        )


def _recipe_counts(wanted: Sequence[Wanted], completions: Mapping[str, Completion]) -> Iterator[RecipeCounts]:
    keys_of: dict[str, set[str]] = {}
    for entry in wanted:
        keys_of.setdefault(entry.recipe, set()).add(entry.request.key)
    for recipe, keys in keys_of.items():
        answers = [completions[key] for key in keys if key in completions]
        truncated = sum(answer.finish_reason == "length" for answer in answers)
        yield RecipeCounts(recipe, len(keys), len(answers), truncated)


def curate_items(ctx: RunContext, ingested: Ingested, items: Sequence[Item], questions: Sequence[str]) -> Curated:
    """Run the filters, store every verdict, and return the accepted items."""
    asked = cached = 0

    def ask(requests: Sequence[Request]) -> Mapping[str, Completion]:
        nonlocal asked, cached
        report = answer_all(
            requests,
            ctx.teacher,
            ctx.catalogue,
            batch_size=ctx.config.generate.batch_size,
            on_progress=lambda done, total: ctx.reporter.step_progress("curate", done, total, "asked to the teacher"),
        )
        asked, cached = asked + report.asked, cached + report.cached
        for line in _missing(report):
            ctx.reporter.note(line)
        return report.completions

    ctx.reporter.step_started("curate", f"{len(items):,} items")
    report = curate(
        items,
        ingested.chunks,
        ingested.documents,
        ctx.config.curate,
        ask,
        questions,
        teacher_fingerprint=ctx.teacher.fingerprint,
    )
    ctx.catalogue.put_verdicts(report.verdicts)
    accepted = tuple(item for item in items if item.id in report.accepted_ids)
    ctx.reporter.step_done("curate", f"{len(accepted):,} of {len(items):,} items accepted", cached=asked == 0)
    return Curated(accepted, report, asked, cached)


def stage_items(stage: StageConfig, accepted: Sequence[Item]) -> list[Item]:
    """Return the accepted items of the train split that a stage's recipes and part name."""
    recipes = stage.data.recipes or STAGE_RECIPES[stage.train.stage]
    low, high = stage.data.part
    return [
        item
        for item in accepted
        if item.recipe in recipes and item.split is Split.TRAIN and low <= _position(item) < high
    ]


def _position(item: Item) -> float:
    """Return where an item stands in [0, 1): by its question, so that equal questions stay together."""
    return int(digest(item.meta.get("question") or item.payload)[:8], 16) / 16**8


def stage_dataset(ctx: RunContext, stage: StageConfig, ingested: Ingested, accepted: Sequence[Item]) -> DatasetVersion:
    """Write the dataset version that a pretrain, SFT or PPO stage trains on: train split only, exact, immutable."""
    recipes = stage.data.recipes or STAGE_RECIPES[stage.train.stage]
    kind = Kind.TEXT if stage.train.stage == "pretrain" else Kind.MESSAGES
    rows = stage_items(stage, accepted)
    if stage.train.stage == "pretrain" and stage.data.documents:
        texts = document_text_items(ingested.documents, ingested.chunks)
        ctx.catalogue.add_items(texts)
        rows += texts
    wrong = sorted({item.recipe for item in rows if item.kind is not kind})
    if wrong:
        raise DataError(
            f"stage {stage.name} ({stage.train.stage}) can't train on items of {', '.join(wrong)}",
            valid=f"recipes that make {kind} items",
            next_step=f"edit stages[{stage.name}].data.recipes",
        )
    if not rows:
        raise DataError(
            f"no accepted items for stage {stage.name} from {', '.join(recipes)}",
            next_step="the funnel in the report says which filter took them",
        )
    return write_dataset(ctx.catalogue, f"{ctx.config.project}-{stage.name}", kind, rows)
