"""How many requests became how many items, and what each check did with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog import queries
from data_catalog.records import Outcome, Record

if TYPE_CHECKING:
    import duckdb

EXAMPLES = 3
REASONS = 10


class FunnelReason(Record):
    """One reason of one check, how often it was given, and some items that got it."""

    outcome: Outcome
    reason: str
    count: int
    examples: tuple[str, ...]
    """Item ids, three at most."""


class FunnelCheck(Record):
    """What one check said: `seen == passed + failed + unscored`."""

    check: str
    seen: int
    passed: int
    failed: int
    unscored: int
    reasons: tuple[FunnelReason, ...]
    """The most frequent first, ten at most."""
    other_reasons: int = 0
    """Verdicts whose reason is not among those ten."""


class FunnelRow(Record):
    """One recipe: `items == accepted + rejected + quarantined + unjudged`."""

    recipe: str
    requests: int
    answered: int
    truncated: int
    """Answers that met the token limit; they count as answered and can't be parsed."""
    items: int
    checks: tuple[FunnelCheck, ...]
    """In the order given, or else by how many items they saw, most first."""
    accepted: int
    """Every verdict is a pass, and there is at least one."""
    rejected: int
    """At least one verdict is a failure."""
    quarantined: int
    """No failure, but at least one check could not be made."""
    unjudged: int


class FunnelTable(Record):
    """One row per recipe."""

    rows: tuple[FunnelRow, ...]

    @property
    def accepted(self) -> int:
        """Accepted items of all recipes."""
        return sum(row.accepted for row in self.rows)


def read_funnel(
    con: duckdb.DuckDBPyConnection,
    *,
    recipes: Sequence[str] | None,
    checks: Sequence[str] | None,
    current_only: bool,
) -> FunnelTable:
    """Count everything in four queries; see `Catalogue.funnel` for the arguments."""
    given = {"current_only": current_only, "checks": None if checks is None else list(checks)}
    requests = {
        purpose: tuple(counts)
        for purpose, *counts in con.execute(queries.FUNNEL_REQUESTS, {"current_only": current_only}).fetchall()
    }
    items = {recipe: tuple(counts) for recipe, *counts in con.execute(queries.FUNNEL_ITEMS, given).fetchall()}
    reasons = _reasons(con, given)
    found: defaultdict[str, list[FunnelCheck]] = defaultdict(list)
    for recipe, check, *counts in con.execute(queries.FUNNEL_CHECKS, given).fetchall():
        found[recipe].append(_check(check, counts, reasons[recipe, check]))
    order = {check: place for place, check in enumerate(checks or ())}
    for entries in found.values():
        entries.sort(key=lambda entry: order.get(entry.check, 0))
    names = sorted(items) if recipes is None else list(dict.fromkeys(recipes))
    return FunnelTable(
        rows=tuple(
            _row(name, _requests_of(name, requests), items.get(name, (0, 0, 0, 0, 0)), found[name]) for name in names
        )
    )


def _requests_of(recipe: str, requests: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return a recipe's counts. Items may name their recipe without the version that their requests carry."""
    own = [counts for purpose, counts in requests.items() if recipe in (purpose, purpose.partition("@")[0])]
    return tuple(map(sum, zip(*own, strict=True))) if own else (0, 0, 0)


def _reasons(con: duckdb.DuckDBPyConnection, given: dict[str, Any]) -> defaultdict[tuple[str, str], list[FunnelReason]]:
    found: defaultdict[tuple[str, str], list[FunnelReason]] = defaultdict(list)
    rows = con.execute(queries.FUNNEL_REASONS, {**given, "examples": EXAMPLES}).fetchall()
    for recipe, check, outcome, reason, count, examples in rows:
        entry = FunnelReason(outcome=Outcome(outcome), reason=reason, count=count, examples=tuple(examples))
        found[recipe, check].append(entry)
    return found


def _check(check: str, counts: Sequence[int], reasons: Sequence[FunnelReason]) -> FunnelCheck:
    seen, passed, failed, unscored = counts
    return FunnelCheck(
        check=check,
        seen=seen,
        passed=passed,
        failed=failed,
        unscored=unscored,
        reasons=tuple(reasons[:REASONS]),
        other_reasons=sum(reason.count for reason in reasons[REASONS:]),
    )


def _row(recipe: str, requests: Sequence[int], items: Sequence[int], checks: Sequence[FunnelCheck]) -> FunnelRow:
    asked, answered, truncated = requests
    parsed, accepted, rejected, quarantined, unjudged = items
    return FunnelRow(
        recipe=recipe,
        requests=asked,
        answered=answered,
        truncated=truncated,
        items=parsed,
        checks=tuple(checks),
        accepted=accepted,
        rejected=rejected,
        quarantined=quarantined,
        unjudged=unjudged,
    )
