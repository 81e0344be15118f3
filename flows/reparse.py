"""Parse the stored answers again, after a parser has changed: what it makes of them now, and nobody is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum

from data_catalog.catalogue import Catalogue
from data_catalog.identity import canonical_json
from data_catalog.records import Completion, Item, Record, Request
from generators.recipes import FollowUp, ParseFailure, Recipe, parse

SHOWN_CHARACTERS = 60


class Change(StrEnum):
    """What the parser of today makes of a stored answer, beside the items that are stored."""

    SAME = "same"
    """The same item, or again none."""
    NEW = "new"
    """An item where there was none."""
    CHANGED = "changed"
    """Another item than before, or other facts about it."""
    LOST = "lost"
    """No item any more; the stored one stays, and the next refresh does without it."""


class ReparsedAnswer(Record):
    """One answer that is read differently now."""

    request_key: str
    recipe: str
    change: Change
    before: str
    """The stored item's content as JSON; empty where there was none."""
    after: str
    """The content now, or why there is none."""


class RecipeChanges(Record):
    """One recipe: `answers` is the sum of all changes."""

    recipe: str
    answers: int
    changes: Mapping[Change, int]


class ReparseReport(Record):
    """What parsing again has changed. Answers about withdrawn documents and chunks are left out."""

    recipes: tuple[RecipeChanges, ...]
    answers: tuple[ReparsedAnswer, ...]
    """Those that are not the same, by recipe and request."""
    stored: int
    """Items that were new or changed, and are in the catalogue now."""


def reparse(catalogue: Catalogue, recipes: Mapping[str, Recipe]) -> ReparseReport:
    """Parse every stored answer of a recipe again, and store what is new or changed.

    Answers that lead to further questions make no item and are left out; what they lead to is a run's business.

    Args:
        catalogue: of the project.
        recipes: the product's and the user's own, by name (`generators.recipes.recipes_of`).

    Raises:
        CatalogueBusy: a run of the project is active.
    """
    with catalogue.run_lock("tutelage reparse"):
        before = _items_by_request(catalogue, recipes)
        fresh: list[Item] = []
        found: list[ReparsedAnswer] = []
        counts: dict[str, Counter[Change]] = {}
        for request, completion in _current_answers(catalogue, recipes):
            recipe = recipes[request.origin["recipe"]]
            now = parse(request, completion, recipes)
            if isinstance(now, FollowUp):
                continue
            known = before.get(completion.request_key, ())
            change = _compare(now, known)
            counts.setdefault(recipe.name, Counter())[change] += 1
            if change is Change.SAME:
                continue
            if isinstance(now, Item):
                fresh.append(now)
            found.append(
                ReparsedAnswer(
                    request_key=completion.request_key,
                    recipe=recipe.name,
                    change=change,
                    before=_content(known[0]) if known else "",
                    after=_content(now) if isinstance(now, Item) else now.reason,
                )
            )
        catalogue.add_items(fresh)
    return ReparseReport(
        recipes=tuple(
            RecipeChanges(recipe=name, answers=said.total(), changes={change: said[change] for change in Change})
            for name, said in sorted(counts.items())
        ),
        answers=tuple(sorted(found, key=lambda answer: (answer.recipe, answer.request_key))),
        stored=len(fresh),
    )


def table(report: ReparseReport) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return headers and rows: one row per recipe."""
    headers = ("recipe", "answers", *(change.value for change in Change))
    return headers, [
        (row.recipe, f"{row.answers:,}", *(f"{row.changes[change]:,}" for change in Change)) for row in report.recipes
    ]


def lines(answers: Sequence[ReparsedAnswer]) -> Iterator[str]:
    """Yield one line for each answer that is read differently."""
    for answer in answers:
        before = f"{_short(answer.before)} → " if answer.before else ""
        yield f"{answer.change:<8} {answer.request_key}  {before}{_short(answer.after)}"


def _current_answers(catalogue: Catalogue, recipes: Collection[str]) -> Iterator[tuple[Request, Completion]]:
    """Yield the answered requests of recipes whose document and chunk are still there."""
    documents = {document.id for document in catalogue.documents()}
    chunks = {chunk.id for chunk in catalogue.chunks()}
    keys = catalogue.answered_keys()
    completions = catalogue.answered(keys)
    for request in catalogue.requests(keys):
        origin = request.origin
        chunk = origin.get("chunk_id")
        document = origin.get("document_id")
        is_current = (document is None or document in documents) and (chunk is None or chunk in chunks)
        if origin.get("recipe") in recipes and is_current:
            yield request, completions[request.key]


def _items_by_request(catalogue: Catalogue, recipes: Collection[str]) -> Mapping[str, Sequence[Item]]:
    found: dict[str, list[Item]] = {}
    for item in catalogue.items(current_only=False):
        if item.recipe in recipes:
            for key in item.request_keys:
                found.setdefault(key, []).append(item)
    return found


def _compare(now: Item | ParseFailure, known: Sequence[Item]) -> Change:
    if isinstance(now, ParseFailure):
        return Change.LOST if known else Change.SAME
    if not known:
        return Change.NEW
    # Through JSON, as the catalogue keeps it: a tuple comes back as a list.
    equal = any(item.id == now.id and canonical_json(item.meta) == canonical_json(now.meta) for item in known)
    return Change.SAME if equal else Change.CHANGED


def _content(item: Item) -> str:
    return canonical_json(item.payload)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
