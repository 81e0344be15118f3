"""Where anything came from and what became of it: document, chunk, request, item, dataset, run, model, both ways.

The whole closure is walked, so "which models learned from this document" is answered in full; only the tree that is
shown is cut, and says by how much.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from data_catalog import queries
from data_catalog.errors import ConfigError
from data_catalog.records import Record, Stage

if TYPE_CHECKING:
    import duckdb

    from data_catalog.catalogue import Catalogue
    from data_catalog.store import Store

_FAN_OUT = 8
_LABEL_CHARACTERS = 110
_REACHED_IDS = 20


class Reached(Record):
    """Everything of one kind that can be reached in one direction."""

    kind: str
    count: int
    ids: tuple[str, ...]
    """Sorted, twenty at most."""


class TraceNode(Record):
    """One thing in the chain, with what it was made of (`up`) and what was made from it (`down`).

    Below the root a node only continues in the direction that led to it.
    """

    kind: str
    """`path`, `document`, `chunk`, `request`, `item`, `dataset`, `run`, `gate` or `model`."""
    id: str
    label: str
    up: tuple[TraceNode, ...] = ()
    down: tuple[TraceNode, ...] = ()
    hidden_up: Mapping[str, int] = {}
    """How many more of each kind it was made of than `up` shows."""
    hidden_down: Mapping[str, int] = {}
    shown_before: bool = False
    """It stands elsewhere in the tree, with what belongs to it."""
    all_up: tuple[Reached, ...] = ()
    """Root only: the whole ancestry, by kind."""
    all_down: tuple[Reached, ...] = ()
    """Root only: the whole progeny, by kind."""

    def reached(self, kind: str, *, down: bool = True) -> Reached:
        """Return what of one kind the root reaches downwards (or upwards)."""
        for entry in self.all_down if down else self.all_up:
            if entry.kind == kind:
                return entry
        return Reached(kind=kind, count=0, ids=())


class NodeKey(NamedTuple):
    """What identifies anything in the catalogue; `kind` as in `TraceNode`."""

    kind: str
    id: str


_Neighbours = Mapping[NodeKey, Sequence[NodeKey]]


@dataclass(frozen=True)
class _Branch:
    """One shown node of one direction, before it has a label."""

    key: NodeKey
    children: tuple[_Branch, ...] = ()
    hidden: Mapping[str, int] | None = None
    shown_before: bool = False


def trace(catalogue: Catalogue, wanted: str, *, fan_out: int = _FAN_OUT) -> TraceNode:
    """Return the tree of everything around one thing; arguments and errors as of `trace_in`."""
    return trace_in(catalogue.store, wanted, fan_out=fan_out)


def trace_in(store: Store, wanted: str, *, fan_out: int = _FAN_OUT) -> TraceNode:
    """Return the tree of everything around one thing, from the catalogue's file alone: no Arrow has to be imported.

    Args:
        store: where to look.
        wanted: an id, a unique prefix of one (with or without its `item-`), a document's path, or a stage's name.
        fan_out: neighbours of one kind that are shown at the root; each level below shows half as many.

    Raises:
        ConfigError: nothing, or more than one thing, has that name.
    """
    with store.reading() as con:
        root = find_node(con, wanted)
        above = _walk(con, [root], queries.PARENTS)
        below = _walk(con, [root], queries.CHILDREN)
        up = _branch(root, above, fan_out, set())
        down = _branch(root, below, fan_out, set())
        labels = _labels(con, {*_keys(up), *_keys(down)})
    return TraceNode(
        kind=root.kind,
        id=root.id,
        label=labels[root],
        up=tuple(_node(child, labels, upwards=True) for child in up.children),
        down=tuple(_node(child, labels, upwards=False) for child in down.children),
        hidden_up=up.hidden or {},
        hidden_down=down.hidden or {},
        all_up=_reached(root, above),
        all_down=_reached(root, below),
    )


def render_tree(node: TraceNode) -> str:
    """Return the tree as text, for a terminal."""
    lines = [f"{node.kind} {node.id}"] + ([f"  {node.label}"] if node.label else [])
    for title, children, hidden, everything in (
        ("made of", node.up, node.hidden_up, node.all_up),
        ("became", node.down, node.hidden_down, node.all_down),
    ):
        totals = ", ".join(_counted(entry.count, entry.kind) for entry in everything)
        lines += ["", f"{title}: {totals or 'nothing'}"]
        lines += _render(children, hidden, "", upwards=title == "made of")
    models = node.reached("model")
    if models.count > 1:
        # The tree may hide some; which models learned from something is the question that has to be answered in full.
        lines += ["", f"models: {', '.join(models.ids)}" + (" ..." if models.count > len(models.ids) else "")]
    return "\n".join(lines)


def find_node(con: duckdb.DuckDBPyConnection, wanted: str) -> NodeKey:
    """Return what an id, a unique prefix of one, a document's path or a stage's name means.

    Raises:
        ConfigError: nothing, or more than one thing, has that name.
    """
    text = wanted
    if wanted in set(Stage):
        pointers = dict(row[:2] for row in con.execute(queries.STAGE_POINTERS).fetchall())
        text = pointers.get(wanted, wanted)
    kinds = _kinds_for(text)
    # An index finds the whole id; the beginning of one takes a scan of the table.
    found = _found(con, queries.FIND_EXACT, kinds, text) or _found(con, queries.FIND_NODES, kinds, text)
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"`{wanted}` fits {'several things' if found else 'nothing'} in the catalogue"
        + (f": {', '.join(key.id for key in found[:6])}" if found else ""),
        valid="an id or a unique prefix of one, a document's path, or candidate, staging, production, archived",
        next_step="give more digits" if found else "look for ids in the report, or in: tutelage models",
    )


def _found(
    con: duckdb.DuckDBPyConnection, statements: Mapping[str, str], kinds: Sequence[str], text: str
) -> list[NodeKey]:
    return [
        NodeKey(kind, one)
        for kind in kinds
        if kind in statements
        for (one,) in con.execute(statements[kind], {"text": text}).fetchall()
    ]


def descendants(con: duckdb.DuckDBPyConnection, roots: Iterable[NodeKey]) -> set[NodeKey]:
    """Return everything that was made from `roots`, directly or not, without them."""
    return {key for keys in _walk(con, roots, queries.CHILDREN).values() for key in keys}


def _kinds_for(text: str) -> list[str]:
    """Return the kinds of things that `text` may name: one, and paths, where it starts with the prefix of its ids."""
    if not text:
        return []
    prefix, dash, _ = text.partition("-")
    told = [kind for kind, known in queries.ID_PREFIXES.items() if dash and known == prefix]
    return [*(told or queries.ID_PREFIXES), "path"]


def _walk(
    con: duckdb.DuckDBPyConnection, roots: Iterable[NodeKey], steps: Sequence[tuple[str, str, str]]
) -> _Neighbours:
    """Return the neighbours of everything that can be reached from `roots`, a level at a time, sorted."""
    neighbours: defaultdict[NodeKey, list[NodeKey]] = defaultdict(list)
    frontier = set(roots)
    seen = set(frontier)
    while frontier:
        by_kind: defaultdict[str, list[str]] = defaultdict(list)
        for key in frontier:
            by_kind[key.kind].append(key.id)
        found: set[NodeKey] = set()
        for from_kind, to_kind, sql in steps:
            if from_kind in by_kind:
                for from_id, to_id in _for_wanted(con, sql, by_kind[from_kind]):
                    to = NodeKey(to_kind, to_id)
                    neighbours[NodeKey(from_kind, from_id)].append(to)
                    found.add(to)
        frontier = found - seen
        seen |= found
    for reached in neighbours.values():
        reached.sort()
    return neighbours


def _for_wanted(con: duckdb.DuckDBPyConnection, sql: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Run a statement on `wanted`, given as a parameter: `register` imports pandas where that is installed."""
    return con.execute(queries.WANTED + sql, {"wanted": ids}).fetchall()


def _branch(key: NodeKey, neighbours: _Neighbours, fan_out: int, seen: set[NodeKey]) -> _Branch:
    """Cut the graph to a tree: each node is opened once, and shows at most `fan_out` neighbours of each kind."""
    if key in seen:
        return _Branch(key, shown_before=bool(neighbours.get(key)))
    seen.add(key)
    by_kind: defaultdict[str, list[NodeKey]] = defaultdict(list)
    for neighbour in neighbours.get(key, ()):
        by_kind[neighbour.kind].append(neighbour)
    shown = [entry for entries in by_kind.values() for entry in entries[:fan_out]]
    return _Branch(
        key,
        children=tuple(_branch(entry, neighbours, max(1, fan_out // 2), seen) for entry in shown),
        hidden={kind: len(entries) - fan_out for kind, entries in by_kind.items() if len(entries) > fan_out},
    )


def _keys(branch: _Branch) -> Iterable[NodeKey]:
    yield branch.key
    for child in branch.children:
        yield from _keys(child)


def _labels(con: duckdb.DuckDBPyConnection, keys: Iterable[NodeKey]) -> dict[NodeKey, str]:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    distinct = set(keys)
    for key in distinct:
        by_kind[key.kind].append(key.id)
    # What lineage names and the catalogue lacks (a gate of another catalogue) still has its place in the tree.
    labels = {key: "" if key.kind == "path" else "not in this catalogue" for key in distinct}
    for kind, wanted in by_kind.items():
        if kind not in queries.LABELS:
            continue
        for one, label in _for_wanted(con, queries.LABELS[kind], wanted):
            labels[NodeKey(kind, one)] = _short(label)
    return labels


def _node(branch: _Branch, labels: Mapping[NodeKey, str], *, upwards: bool) -> TraceNode:
    children = tuple(_node(child, labels, upwards=upwards) for child in branch.children)
    hidden = branch.hidden or {}
    return TraceNode(
        kind=branch.key.kind,
        id=branch.key.id,
        label=labels[branch.key],
        up=children if upwards else (),
        down=() if upwards else children,
        hidden_up=hidden if upwards else {},
        hidden_down={} if upwards else hidden,
        shown_before=branch.shown_before,
    )


def _reached(root: NodeKey, neighbours: _Neighbours) -> tuple[Reached, ...]:
    everything = {key for keys in neighbours.values() for key in keys} - {root}
    counts = Counter(key.kind for key in everything)
    return tuple(
        Reached(
            kind=kind,
            count=count,
            ids=tuple(sorted(key.id for key in everything if key.kind == kind)[:_REACHED_IDS]),
        )
        for kind, count in sorted(counts.items())
    )


def _render(children: Sequence[TraceNode], hidden: Mapping[str, int], indent: str, *, upwards: bool) -> list[str]:
    lines: list[str] = []
    more = [f"and {_counted(count, f'more {kind}')}" for kind, count in sorted(hidden.items())]
    for position, child in enumerate(children, start=1):
        last = position == len(children) and not more
        suffix = "  (see above)" if child.shown_before else ""
        label = f"  {child.label}" if child.label else ""
        lines.append(f"{indent}{'└─' if last else '├─'} {child.kind} {child.id}{label}{suffix}")
        deeper = (child.up, child.hidden_up) if upwards else (child.down, child.hidden_down)
        lines += _render(*deeper, indent + ("   " if last else "│  "), upwards=upwards)
    lines += [f"{indent}{'└─' if entry is more[-1] else '├─'} {entry}" for entry in more]
    return lines


def _counted(count: int, kind: str) -> str:
    return f"{count:,} {kind}" + ("" if count == 1 else "s")


def _short(label: str) -> str:
    one_line = " ".join(label.split())
    return one_line if len(one_line) <= _LABEL_CHARACTERS else one_line[: _LABEL_CHARACTERS - 1] + "…"
