"""What the teacher is asked and what is accepted of it: generate and curate, in rounds until targets are met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from data_catalog.errors import DataError
from data_catalog.records import Completion, Item, Request, Verdict
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.examples import example_pools
from generators.engine import AnswerReport, answer_all
from generators.filters.calibration import demand_recall
from generators.filters.pipeline import CurateReport, Curator, demand_minimum
from generators.recipes import FollowUp, build_requests, find_recipe, follow_up_requests, parse, recipes_of
from generators.recipes.answers import ParseFailure
from generators.refill import Supply
from generators.tokens import load_counter


@dataclass(frozen=True)
class RecipeCounts:
    """What became of one recipe's requests."""

    recipe: str
    requests: int
    answered: int
    truncated: int
    """Answers that met the token limit; they count as answered and give no item."""

    def __add__(self, more: RecipeCounts) -> RecipeCounts:
        """Return the sum of two rounds."""
        return RecipeCounts(
            self.recipe,
            self.requests + more.requests,
            self.answered + more.answered,
            self.truncated + more.truncated,
        )


@dataclass(frozen=True)
class Generated:
    """What the teacher's answers came to."""

    items: tuple[Item, ...] = ()
    """In the order of their requests, the first round first."""
    recipes: tuple[RecipeCounts, ...] = ()
    unparsed: Mapping[str, int] = field(default_factory=dict)
    """Why answers gave no item, and how often."""
    declined: frozenset[str] = frozenset()
    """Keys of requests to which the teacher said that there is nothing to ask about."""
    asked: int = 0
    cached: int = 0
    wanted: tuple[Wanted, ...] = ()
    """Everything that was to be asked, the first round first."""

    def __add__(self, more: Generated) -> Generated:
        """Return what two rounds on different requests came to."""
        counts = {one.recipe: one for one in self.recipes}
        for one in more.recipes:
            counts[one.recipe] = counts[one.recipe] + one if one.recipe in counts else one
        return Generated(
            items=tuple({item.id: item for item in (*self.items, *more.items)}.values()),
            recipes=tuple(counts.values()),
            unparsed=Counter(self.unparsed) + Counter(more.unparsed),
            declined=self.declined | more.declined,
            asked=self.asked + more.asked,
            cached=self.cached + more.cached,
            wanted=(*self.wanted, *more.wanted),
        )

    @property
    def requests(self) -> Mapping[int, Sequence[Request]]:
        """What was asked for, by the recipe's place in the configuration."""
        found: dict[int, list[Request]] = {}
        for entry in self.wanted:
            found.setdefault(entry.place, []).append(entry.request)
        return found


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
    """In the order of the items."""
    report: CurateReport = field(default_factory=CurateReport)
    asked: int = 0
    cached: int = 0

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Every verdict on every item."""
        return self.report.verdicts


def generation_requests(ctx: RunContext, ingested: Ingested, supply: Supply) -> list[Wanted]:
    """Render the prompts of every recipe that this round of `supply` asks for, in a fixed order."""
    render = _renderer(ctx, ingested)
    return [
        entry
        for place in range(len(ctx.config.generate.recipes))
        for entry in render(place, partial(supply.wanted, place))
    ]


def targeted_requests(ctx: RunContext, ingested: Ingested) -> list[Wanted]:
    """Render what the run's targets ask for beside the rounds, equal requests once.

    Raises:
        DataError: nothing of a target can be asked about any more.
    """
    render, found = _renderer(ctx, ingested), dict[str, Wanted]()
    for target in ctx.targets:
        before = len(found)
        for entry in target.recipes:
            for place, spec in enumerate(ctx.config.generate.recipes):
                # Asked greedily, the teacher would say the same again.
                if spec.temperature > 0 and find_recipe(spec.recipe).name == entry.recipe:
                    asked = render(place, partial(_always, entry.indices))
                    found |= {one.request.key: one for one in asked if entry.covers(one.request)}
        if len(found) == before:
            raise DataError(
                f"the target of model {target.model or '(not named)'} and suite {target.suite or '(not named)'} names "
                "no chunk or document that can be asked about: they have changed, or are held out for evaluation",
                next_step="take it out of generate.targets, or write it anew: tutelage diagnose MODEL --write-target",
            )
    return list(found.values())


def _always(samples: range, subject: str) -> range:
    """Return the same samples for every subject."""
    return samples


def _renderer(ctx: RunContext, ingested: Ingested) -> Callable[[int, Callable[[str], range]], list[Wanted]]:
    """Return what renders the prompts of one recipe: its place, and from a subject to the indices of its samples."""
    count_tokens = load_counter(ctx.config.student.model)
    pools = example_pools(ctx.config, ctx.catalogue, ingested, count_tokens)

    def render(place: int, samples_of: Callable[[str], range]) -> list[Wanted]:
        spec = ctx.config.generate.recipes[place]
        requests = build_requests(
            spec,
            ingested.documents,
            ingested.chunks,
            teacher_fingerprint=ctx.teacher.fingerprint,
            count_tokens=count_tokens,
            context_tokens=ctx.config.generate.context_tokens,
            unknown_answer=ctx.config.student.answer_unknown,
            samples_of=samples_of,
            examples=pools.get(place),
        )
        name = find_recipe(spec.recipe).name
        return [Wanted(place, name, request) for request in requests]

    return render


def allowed(ctx: RunContext, wanted: Sequence[Wanted]) -> Sequence[Wanted]:
    """Return what may be asked: with targets, what they cover and what was answered before."""
    if not ctx.targets:
        return wanted
    answered = ctx.catalogue.answered([entry.request.key for entry in wanted])
    return [
        entry
        for entry in wanted
        if entry.request.key in answered or any(target.covers(entry.request) for target in ctx.targets)
    ]


def generate_and_curate(
    ctx: RunContext,
    ingested: Ingested,
    wanted: Sequence[Wanted],
    supply: Supply,
    questions: Sequence[str],
    before: Generated | None = None,
) -> tuple[Generated, Curated]:
    """Ask, parse and judge; and again for what fell short of its recipe's target, until nothing more can be asked.

    Args:
        ctx: the run.
        ingested: the documents.
        wanted: the requests of the first round.
        supply: in that round.
        questions: of all suites.
        before: what was generated earlier; its items are judged together with the new ones.

    Raises:
        DataError: the judge let too many planted answers pass, or fewer items were accepted than
            `curate.minimum_items`.
    """
    generated, curation = before or Generated(), Curation(ctx, ingested, questions)
    while True:
        generated += generate(ctx, wanted)
        curated = curation.judge(generated.items)
        if ctx.config.curate.judge is not None:
            demand_recall(curated.report.calibration, ctx.config.curate.judge.min_recall)
        lacking = supply.grow(generated.requests, curated.accepted, generated.declined)
        if not lacking:
            break
        for place, count in lacking.items():
            spec = ctx.config.generate.recipes[place]
            name = find_recipe(spec.recipe).name
            ctx.reporter.note(f"{name}: {count:,} subjects have fewer than {spec.target} accepted: asked again")
        wanted = generation_requests(ctx, ingested, supply)
    ctx.catalogue.put_verdicts(curated.verdicts)
    if curated.report.calibration is not None:
        ctx.reporter.note(str(curated.report.calibration))
    demand_minimum(curated.report, ctx.config.curate.minimum_items)
    return generated, curated


def ask_more(
    ctx: RunContext,
    ingested: Ingested,
    wanted: Sequence[Wanted],
    supply: Supply,
    questions: Sequence[str],
    before: tuple[Generated, Curated],
) -> tuple[Generated, Curated]:
    """Ask and judge a further round on top of what was made `before`; the counts are those of both.

    Raises:
        DataError: as `generate_and_curate`.
    """
    generated, earlier = before
    generated, curated = generate_and_curate(ctx, ingested, wanted, supply, questions, generated)
    return generated, replace(curated, asked=earlier.asked + curated.asked)


def generate(ctx: RunContext, wanted: Sequence[Wanted]) -> Generated:
    """Ask what was never asked, parse every answer, store the items; and the same with what answers lead to."""
    recipes, wanted = recipes_of(ctx.config.generate.recipes), allowed(ctx, wanted)
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
    next_steps: dict[int, list[tuple[Request, FollowUp]]] = {}
    for entry in wanted:
        completion = report.completions.get(entry.request.key)
        if completion is None:
            continue
        parsed = parse(entry.request, completion, recipes)
        if isinstance(parsed, ParseFailure):
            unparsed[parsed.reason] += 1
            if parsed.declined:
                declined.add(entry.request.key)
        elif isinstance(parsed, FollowUp):
            next_steps.setdefault(entry.place, []).append((entry.request, parsed))
        else:
            items.setdefault(parsed.id, parsed)
    ctx.catalogue.add_items(list(items.values()))
    line = f"{len(items):,} items from {len(report.completions):,} answers"
    ctx.reporter.step_done("generate", line, cached=report.asked == 0)
    for line in _missing(report):
        ctx.reporter.note(line)
    done = Generated(
        items=tuple(items.values()),
        recipes=tuple(_recipe_counts(wanted, report.completions)),
        unparsed=unparsed,
        declined=frozenset(declined),
        asked=report.asked,
        cached=report.cached,
        wanted=tuple(wanted),
    )
    following = list(_following(ctx, next_steps))
    return done + generate(ctx, following) if following else done


def _following(ctx: RunContext, found: Mapping[int, Iterable[tuple[Request, FollowUp]]]) -> Iterator[Wanted]:
    for place, next_steps in found.items():
        spec = ctx.config.generate.recipes[place]
        name = find_recipe(spec.recipe).name
        yield from (Wanted(place, name, request) for request in follow_up_requests(spec, next_steps))


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


class Curation:
    """The step curate: the filters, and a count of what they asked of the teacher over all rounds."""

    def __init__(self, ctx: RunContext, ingested: Ingested, questions: Sequence[str]) -> None:
        self._ctx = ctx
        self._asked = self._cached = 0
        self._curator = Curator(
            ingested.chunks,
            ingested.documents,
            ctx.config.curate,
            self._ask,
            questions,
            teacher_fingerprint=ctx.teacher.fingerprint,
            recipes=recipes_of(ctx.config.generate.recipes),
        )

    def judge(self, items: Sequence[Item]) -> Curated:
        """Run the filters on all items so far and return the accepted ones; stores no verdict."""
        reporter, before = self._ctx.reporter, self._asked
        reporter.step_started("curate", f"{len(items):,} items")
        report = self._curator.curate(items)
        accepted = tuple(item for item in items if item.id in report.accepted_ids)
        line = f"{len(accepted):,} of {len(items):,} items accepted"
        reporter.step_done("curate", line, cached=self._asked == before)
        return Curated(accepted, report, self._asked, self._cached)

    def _ask(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        reporter = self._ctx.reporter
        report = answer_all(
            requests,
            self._ctx.teacher,
            self._ctx.catalogue,
            batch_size=self._ctx.config.generate.batch_size,
            on_progress=lambda done, total: reporter.step_progress("curate", done, total, "asked to the teacher"),
        )
        self._asked, self._cached = self._asked + report.asked, self._cached + report.cached
        for line in _missing(report):
            reporter.note(line)
        return report.completions
