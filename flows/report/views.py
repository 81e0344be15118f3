"""What each section of the report shows, as plain named values: counted, grouped and ordered here, drawn elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_catalog.evaluation_records import SampleScore
from data_catalog.funnel import FunnelCheck, FunnelRow
from data_catalog.records import Item, Kind
from evaluation.gates import Comparison, GateOutcome
from evaluation.scoring import SuiteScore, summarise
from evaluation.specs import Requirement
from flows.report.charts import Interval, ScoreRow
from flows.report.data import ItemSample, ModelScores, ReportData, StageReport
from flows.report.words import Segment, clip, duration, highlight, number, percent

ANSWERS_SHOWN = 12
"""Answers per suite and group."""
CURVES = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "mean_token_accuracy",
    "label_accuracy",
    "reward",
    "kl",
    "equal_groups",
)
"""What is drawn of a stage's metrics, where it was logged."""
QUOTES = ("evidence", "focus", "sentence")
"""Where an item's `meta` keeps what it took from its chunk, best first."""

_ITEM_ID = re.compile(r"\bitem-[0-9a-f]{8,}\b")


class Hero(NamedTuple):
    """The headline: what the base scored and what the newest model scores."""

    label: str
    before: float | None
    after: float | None
    before_name: str
    after_name: str
    n: int


class Figure(NamedTuple):
    """One key figure under the headline."""

    value: str
    label: str


class Change(NamedTuple):
    """One question, before and after."""

    question: str
    expected: tuple[str, ...]
    before: SampleScore
    after: SampleScore


class ChangeGroup(NamedTuple):
    """Questions with the same fate; `rows` are the first of `total`."""

    name: str
    kind: str
    total: int
    rows: tuple[Change, ...]


class SuiteChanges(NamedTuple):
    """Before and after on one suite."""

    label: str
    n: int
    groups: tuple[ChangeGroup, ...]


class Drop(NamedTuple):
    """One reason for losing items, with the ids of some of them."""

    outcome: str
    reason: str
    total: int
    examples: tuple[str, ...]


class Bar(NamedTuple):
    """One step of a funnel: what is left after it, as a share of the largest step, and what it took."""

    label: str
    total: int
    share: float
    failed: int = 0
    unscored: int = 0
    drops: tuple[Drop, ...] = ()
    other_drops: int = 0


class Turn(NamedTuple):
    """One labelled piece of an item's payload."""

    role: str
    text: str


class ItemView(NamedTuple):
    """An item beside its source; `missing_quote` is an evidence quote that does not stand there."""

    sample: ItemSample
    turns: tuple[Turn, ...]
    source: tuple[Segment, ...]
    missing_quote: str


class Curve(NamedTuple):
    """One metric over the steps of a stage."""

    name: str
    pairs: tuple[tuple[float, float], ...]


class Node(NamedTuple):
    """One model or dataset of the lineage, with (what, id) facts."""

    title: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    outcome: str = ""


def hero(data: ReportData) -> Hero | None:
    """Return the headline's figures, or None when nothing was evaluated."""
    suite = data.headline
    if suite is None:
        return None
    asked = [model for model in data.models if suite in model.suites]
    first, last = asked[0], asked[-1]
    before, after = summarise(first.suites[suite]), summarise(last.suites[suite])
    return Hero(data.label(suite), before.score, after.score, first.label, last.label, after.scored)


def headline(data: ReportData) -> str:
    """Return the result in one line, such as `Closed-book answers: 3 % → 91 %`."""
    found = hero(data)
    if found is None:
        return data.stopped or f"{data.project}: no suite was evaluated"
    if found.before_name == found.after_name:
        return f"{found.label}: {percent(found.after)}"
    return f"{found.label}: {percent(found.before)} → {percent(found.after)}"


def figures(data: ReportData) -> list[Figure]:
    """Return the key figures of the run; only those that there is something to say of."""
    accepted, items = sum(row.accepted for row in data.funnel), sum(row.items for row in data.funnel)
    trained = sum(stage.result.seconds for stage in data.stages)
    found = [
        Figure(number(data.documents), "documents" if data.documents != 1 else "document") if data.documents else None,
        _asked(data),
        Figure(f"{number(accepted)} of {number(items)}", "items passed every check") if items else None,
        Figure(duration(trained), f"of training in {len(data.stages)} stage{'s' * (len(data.stages) != 1)}")
        if data.stages
        else None,
        Figure(duration(data.ended - data.started), "in all"),
    ]
    return [figure for figure in found if figure is not None]


def _asked(data: ReportData) -> Figure | None:
    if not data.requests_asked and not data.requests_cached:
        return None
    if not data.requests_asked:
        return Figure(number(data.requests_cached), "teacher's answers, none asked again")
    reused = f", {number(data.requests_cached)} reused" if data.requests_cached else ""
    return Figure(number(data.requests_asked), f"questions to the teacher{reused}")


def score_rows(data: ReportData, suite: str) -> list[ScoreRow]:
    """Return each model's score on a suite, the base first."""
    return [_score_row(model, summarise(model.suites[suite])) for model in data.models if suite in model.suites]


def _score_row(model: ModelScores, total: SuiteScore) -> ScoreRow:
    interval = None if total.interval is None else Interval(*total.interval)
    return ScoreRow(model.label, total.score, interval)


def sample_count(data: ReportData, suite: str) -> int:
    """Return how many samples a suite has."""
    return max(len(model.suites[suite]) for model in data.models if suite in model.suites)


def changes(data: ReportData) -> list[SuiteChanges]:
    """Compare the first with the newest model's answers, suite by suite; the headline's suite first."""
    if len(data.models) < 2:
        return []
    first, last = data.models[0], data.models[-1]
    both = [suite for suite in data.suites if suite in first.suites and suite in last.suites]
    both.sort(key=lambda suite: suite != data.headline)
    return [suite_changes(data.label(suite), first.suites[suite], last.suites[suite]) for suite in both]


def suite_changes(
    label: str, before: Sequence[SampleScore], after: Sequence[SampleScore], *, shown: int = ANSWERS_SHOWN
) -> SuiteChanges:
    """Sort the answers of two models to one suite by what became of them, the first `shown` of each sort."""
    earlier = {score.sample_id: score for score in before}
    rows = [
        Change(score.question, score.answers, earlier[score.sample_id], score)
        for score in after
        if score.sample_id in earlier
    ]
    groups = []
    for kind, name in (
        ("gained", "learned"),
        ("lost", "lost"),
        ("wrong", "still wrong"),
        ("right", "right before and after"),
        ("unscored", "not scored"),
    ):
        members = [row for row in rows if _fate(row) == kind]
        if members:
            groups.append(ChangeGroup(name, kind, len(members), tuple(members[:shown])))
    return SuiteChanges(label, len(rows), tuple(groups))


def _fate(row: Change) -> str:
    before, after = row.before.score, row.after.score
    if before is None or after is None:
        return "unscored"
    if after != before:
        return "gained" if after > before else "lost"
    return "right" if after >= 1 else "wrong"


def rule_text(comparison: Comparison) -> str:
    """Return what a rule demands, such as `at most 2 points worse than base`."""
    margin = _points_of(comparison.margin)
    if comparison.require is Requirement.AT_LEAST:
        return f"at least {percent(comparison.limit)}"
    if comparison.require is Requirement.BRIEF:
        return f"at most {comparison.max_words} words in at least {percent(comparison.limit)} of the answers"
    if comparison.require is Requirement.NOT_WORSE:
        return f"at most {margin} worse than {comparison.against}"
    return f"better than {comparison.against}" + (f" by more than {margin}" if comparison.margin else "")


def _points_of(margin: float) -> str:
    written = number(round(100 * margin, 6))
    return f"{written} point{'' if written == '1' else 's'}"


def slice_text(comparison: Comparison) -> str:
    """Return which samples of the suite a rule looks at, such as `kind=number`; empty for all of them."""
    return ", ".join(f"{key}={value}" for key, value in comparison.slice.items())


def threshold(comparison: Comparison) -> float:
    """Return where PASS begins on the axis of the comparison's interval."""
    if comparison.require.of_limit:
        return comparison.limit or 0.0
    return comparison.margin if comparison.require is Requirement.BETTER else -comparison.margin


def funnel_bars(row: FunnelRow) -> list[Bar]:
    """Return a recipe's way from requests to accepted items. Steps that nothing passed through are left out."""
    steps = [
        Bar("asked", row.requests, 0),
        Bar("answered", row.answered, 0, failed=max(0, row.requests - row.answered)),
        Bar("parsed", row.items, 0, failed=max(0, row.answered - row.items), drops=_unparsed(row)),
    ]
    if not row.requests:
        steps = [Bar("made", row.items, 0)]
    steps += [_check_bar(check) for check in row.checks]
    steps.append(Bar("accepted", row.accepted, 0))
    largest = max((step.total for step in steps), default=0) or 1
    return [step._replace(share=step.total / largest) for step in steps]


def _unparsed(row: FunnelRow) -> tuple[Drop, ...]:
    if not row.truncated:
        return ()
    return (Drop("failed", "the answer met the token limit", row.truncated, ()),)


def _check_bar(check: FunnelCheck) -> Bar:
    grouped: dict[tuple[str, str], list[tuple[int, tuple[str, ...]]]] = {}
    for reason in check.reasons:
        if reason.outcome.value != "passed":
            key = (reason.outcome.value, reason_stem(reason.reason))
            grouped.setdefault(key, []).append((reason.count, reason.examples))
    drops = [
        Drop(outcome, stem, sum(count for count, _ in found), tuple(id_ for _, ids in found for id_ in ids)[:3])
        for (outcome, stem), found in grouped.items()
    ]
    drops.sort(key=lambda drop: -drop.total)
    return Bar(
        check.check.partition("@")[0].replace("_", " "),
        check.passed,
        0,
        failed=check.failed,
        unscored=check.unscored,
        drops=tuple(drops),
        other_drops=check.other_reasons,
    )


def reason_stem(reason: str) -> str:
    """Return a reason without what differs from item to item, so that like reasons count together."""
    return _ITEM_ID.sub("another item", reason).partition(": ")[0] or "no reason given"


def once(samples: Iterable[ItemSample]) -> list[ItemSample]:
    """Return the samples without repeated items: an anchor can stand on a page only once."""
    return list({sample.item.id: sample for sample in samples}.values())


def item_view(sample: ItemSample) -> ItemView:
    """Put an item beside its source, with the quoted evidence marked in it."""
    quotes = [str(sample.item.meta[key]) for key in QUOTES if sample.item.meta.get(key)]
    text = clip(sample.chunk.text) if sample.chunk is not None else ""
    quote = quotes[0] if quotes else ""
    source = highlight(text, quote) if text else ()
    missing = bool(text and quote) and not any(segment.marked for segment in source)
    return ItemView(sample, tuple(turns(sample.item)), source, clip(quote) if missing else "")


def turns(item: Item) -> Iterable[Turn]:
    """Yield an item's payload as labelled texts, whatever its kind; what has another shape is shown as it is."""
    return payload_turns(item.kind, item.payload)


def payload_turns(kind: Kind, payload: Mapping[str, Any]) -> Iterable[Turn]:
    """Yield the payload of an item of a kind as labelled texts."""
    if kind is Kind.TEXT:
        yield Turn("text", clip(str(payload.get("text", ""))))
    elif kind is Kind.MESSAGES:
        yield from _messages(payload, "messages")
    else:
        yield from _messages(payload, "prompt")
        yield from _messages(payload, "chosen", role="chosen")
        yield from _messages(payload, "rejected", role="rejected")


def _messages(payload: Mapping[str, Any], key: str, role: str = "") -> Iterable[Turn]:
    found = payload.get(key, ())
    for message in found if isinstance(found, list | tuple) else (found,):
        if isinstance(message, Mapping):
            yield Turn(role or str(message.get("role", "")), clip(str(message.get("content", ""))))
        else:
            yield Turn(role, clip(str(message)))


def curves(stage: StageReport) -> list[Curve]:
    """Return the metrics of a stage that are worth a chart; the loss always, even when nothing was logged."""
    found = [Curve("loss", tuple((float(point.step), point.loss) for point in stage.result.metrics))]
    for name in CURVES[1:]:
        pairs = tuple((float(point.step), point.values[name]) for point in stage.result.metrics if name in point.values)
        if pairs:
            found.append(Curve(name, pairs))
    return found


def training_facts(stage: StageReport) -> list[Figure]:
    """Return what a stage trained on and with, as (value, label)."""
    result, ledger = stage.result, stage.result.ledger
    share = result.trainable_parameters / result.total_parameters if result.total_parameters else None
    facts = [
        Figure(number(ledger.kept), "rows"),
        Figure(number(ledger.replay_rows), "replay rows") if ledger.replay_rows else None,
        Figure(number(ledger.tokens), "tokens per epoch") if ledger.tokens else None,
        Figure(number(ledger.target_tokens), "of them carry loss") if ledger.target_tokens else None,
        Figure(number(result.steps), "steps"),
        Figure(duration(result.seconds), "in the training loop"),
        Figure(_share(share), f"of {number(result.total_parameters)} parameters trained") if share else None,
        Figure(number(result.resumed_from_step), "was the step resumed from") if result.resumed_from_step else None,
    ]
    return [fact for fact in facts if fact is not None]


def _share(share: float) -> str:
    return "all" if share >= 1 else percent(share, 1)


def ledger_lines(stage: StageReport) -> list[str]:
    """Return what became of the stage's rows, in sentences."""
    ledger = stage.result.ledger
    lost = ledger.dropped or ledger.truncated
    if not lost:
        return [f"All {number(ledger.rows)} rows were used whole."]
    reasons = [f"{reason}: {number(count)}" for reason, count in Counter(ledger.reasons).most_common()]
    return [
        f"Of {number(ledger.rows)} rows {number(ledger.kept)} were used, {number(ledger.truncated)} of them truncated; "
        f"{number(ledger.dropped)} were dropped.",
        *reasons,
    ]


def lineage(data: ReportData) -> list[Node]:
    """Return the chain from the documents and the base model to the registered version."""
    nodes = []
    if data.documents:
        counted = (("documents", number(data.documents)), ("chunks", number(data.chunks)), ("teacher", data.teacher))
        nodes.append(Node("Documents", "source", tuple(fact for fact in counted if fact[1])))
    nodes.append(Node("Base model", "base", _facts(("directory", data.base_path), ("fingerprint", data.base))))
    nodes += [_stage_node(stage) for stage in data.stages]
    if data.version is not None:
        total = sum(count for _, count, _ in data.version.manifest)
        files = f"{number(len(data.version.manifest))}, {number(total)} bytes"
        facts = _facts(("id", data.version.id), ("directory", data.version.path), ("files", files))
        nodes.append(Node("Model version", "version", facts))
    return nodes


def _stage_node(stage: StageReport) -> Node:
    dataset = stage.dataset
    facts = _facts(
        ("dataset", f"{dataset.id} ({number(dataset.rows)} rows)" if dataset else ""),
        ("run", stage.run_id),
        ("model", stage.model),
        ("gate", stage.gate_id),
    )
    outcome = stage.decision.outcome.value if stage.decision else ""
    return Node(f"{stage.name}: {stage.result.stage}, {stage.result.method}", "stage", facts, outcome)


def _facts(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in pairs if pair[1])


def verdict_word(outcome: GateOutcome | None, *, stopped: bool) -> str:
    """Return the run's outcome in a word or two."""
    if outcome is None:
        return "stopped" if stopped else "no gate"
    words = {
        GateOutcome.PASS: "every gate passed",
        GateOutcome.FAIL: "a gate failed",
        GateOutcome.INCONCLUSIVE: "inconclusive",
    }
    return "stopped" if stopped and outcome is GateOutcome.PASS else words[outcome]
