"""What `tutelage data` shows of dataset versions: rows for tables, lines for people."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_diff import DatasetDiff, DiffRow
from data_catalog.dataset_lookup import KnownDataset, known_datasets, models_of
from data_catalog.datasets import dataset_item_ids
from data_catalog.funnel import FunnelTable
from data_catalog.records import Item, Outcome
from flows.promotion import moment
from flows.report.words import clip, visible

Row = dict[str, object]
SHOWN_CHARACTERS = 300
"""Of one text in a list of rows; JSON has them whole."""


def list_rows(catalogue: Catalogue) -> list[Row]:
    """Return one row per version and name, the newest first."""
    return [
        {
            "name": known.version.name,
            "dataset": known.version.id,
            "kind": known.version.kind.value,
            "rows": known.version.rows,
            "named": moment(known.named_at),
        }
        for known in known_datasets(catalogue)
    ]


def describe_dataset(catalogue: Catalogue, known: KnownDataset) -> dict[str, Any]:
    """Return what is known of a version, as plain values."""
    items = _items(catalogue, known)
    paths = {document.id: document.path for document in catalogue.documents(current_only=False)}
    names = [one.version.name for one in known_datasets(catalogue) if one.version.id == known.version.id]
    return {
        **known.version.model_dump(mode="json", exclude={"name"}),
        "names": names,
        "created": moment(known.created_at),
        "recipes": dict(Counter(item.recipe for item in items).most_common()),
        "documents": dict(
            Counter(paths.get(item.document_id, item.document_id) for item in items if item.document_id).most_common()
        ),
        "models": [{"model": model, "stage": stage} for model, stage in models_of(catalogue, known.version.id)],
    }


def description_lines(told: Mapping[str, Any], *, most: int = 20) -> Iterator[str]:
    """Yield what `tutelage data show` prints, with the `most` documents that gave most rows."""
    yield told["id"]
    yield f"  names     {', '.join(told['names'])}"
    yield f"  kind      {told['kind']}, {told['rows']:,} rows"
    yield f"  created   {told['created']}"
    yield f"  file      {told['path']}  (SHA-256 {told['sha256']})"
    for title, counts in (("recipes", told["recipes"]), ("documents", told["documents"])):
        yield f"\n{title}"
        yield from (f"  {count:>8,}  {visible(name)}" for name, count in list(counts.items())[:most])
        if len(counts) > most:
            yield f"  and {len(counts) - most:,} more"
    yield "\nmodels trained on it"
    yield from [f"  {entry['model']}  in stage {entry['stage']}" for entry in told["models"]] or ["  none"]


def diff_lines(diff: DatasetDiff, *, most: int) -> Iterator[str]:
    """Yield a diff for people: how many rows for which cause, then `most` of the rows."""
    yield f"from  {diff.older.id}  {diff.older.name}, {diff.older.rows:,} rows"
    yield f"to    {diff.newer.id}  {diff.newer.name}, {diff.newer.rows:,} rows"
    yield f"{diff.same:,} rows are in both, {len(diff.rows):,} differ"
    if diff.rows:
        yield ""
    for change, cause, count in diff.causes:
        yield f"{count:>8,} {change:<8} {cause}"
    for row in diff.rows[:most]:
        yield ""
        yield from _diff_row_lines(row)
    if len(diff.rows) > most:
        yield f"\nand {len(diff.rows) - most:,} more rows (--limit, or --json for all)"


def _diff_row_lines(row: DiffRow) -> Iterator[str]:
    where = f", {visible(row.path)}" if row.path else ""
    yield f"{row.change} · {row.cause} · {row.recipe}{where}"
    if row.detail:
        yield f"  {visible(row.detail)}"
    for sign, side in (("-", row.before), ("+", row.after)):
        if side is not None:
            yield f"  {sign} {side['id']}"
            yield from (f"  {sign}   {line}" for line in payload_lines(side["payload"]))


def payload_lines(payload: Mapping[str, Any]) -> Iterator[str]:
    """Yield an item's payload as labelled lines; nothing in it can move the cursor or hide."""
    for key, value in payload.items():
        for message in value if isinstance(value, list | tuple) else (value,):
            told = message if isinstance(message, Mapping) else {"role": key, "content": message}
            role = told.get("role") if key in ("messages", "prompt") else key
            text = " ".join(clip(str(told.get("content", "")), SHOWN_CHARACTERS).split())
            yield visible(f"{role}: {text}")


def funnel_of(catalogue: Catalogue, known: KnownDataset | None) -> FunnelTable:
    """Return the funnel of the recipes that a version has items of; None: of every recipe that has items."""
    if known is None:
        return catalogue.funnel()
    return catalogue.funnel(recipes=sorted({item.recipe for item in _items(catalogue, known)}))


def funnel_lines(table: FunnelTable) -> Iterator[str]:
    """Yield a funnel for people: what each check took, and its commonest reasons."""
    for row in table.rows:
        yield f"{row.recipe}"
        if row.requests:
            yield f"  {row.requests:>8,} asked, {row.answered:,} answered ({row.truncated:,} met the token limit)"
        yield f"  {row.items:>8,} items"
        for check in row.checks:
            lost = f"{check.failed:,} failed" + (f", {check.unscored:,} unscored" if check.unscored else "")
            yield f"  {check.passed:>8,} passed {check.check}: {lost} of {check.seen:,}"
            for reason in check.reasons[:3]:
                yield f"           {reason.count:,} x {visible(clip(reason.reason, 100)) or 'no reason given'}"
        yield f"  {row.accepted:>8,} accepted, {row.rejected:,} rejected, {row.quarantined:,} set aside"
        if row.unjudged:
            yield f"  {row.unjudged:>8,} on which no check has left a verdict"


def draw_sample(catalogue: Catalogue, known: KnownDataset, count: int, seed: int) -> list[dict[str, Any]]:
    """Return items of a version, drawn by seed, with their source and what the checks said."""
    items = _items(catalogue, known)
    drawn = random.Random(seed).sample(items, min(count, len(items)))
    chunks = {chunk.id: chunk for chunk in catalogue.chunks(current_only=False)}
    paths = {document.id: document.path for document in catalogue.documents(current_only=False)}
    verdicts = catalogue.verdicts(item.id for item in drawn)
    return [
        {
            "id": item.id,
            "recipe": item.recipe,
            "payload": item.payload,
            "path": paths.get(item.document_id or "", ""),
            "heading": chunks[item.chunk_id].heading if item.chunk_id in chunks else "",
            "source": chunks[item.chunk_id].text if item.chunk_id in chunks else "",
            "verdicts": [entry.model_dump(mode="json") for entry in verdicts if entry.item_id == item.id],
        }
        for item in drawn
    ]


def sample_lines(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield drawn items for people."""
    for number, sample in enumerate(samples):
        if number:
            yield ""
        yield f"{sample['id']}  {sample['recipe']}"
        yield from (f"  {line}" for line in payload_lines(sample["payload"]))
        if sample["path"]:
            heading = f" > {sample['heading']}" if sample["heading"] else ""
            yield f"  from {visible(sample['path'] + heading)}"
            yield f"    {visible(' '.join(clip(sample['source'], SHOWN_CHARACTERS).split()))}"
        passed = [entry["check"] for entry in sample["verdicts"] if entry["outcome"] == Outcome.PASSED]
        others = [entry for entry in sample["verdicts"] if entry["outcome"] != Outcome.PASSED]
        if passed:
            yield f"  passed {', '.join(passed)}"
        yield from (f"  {entry['outcome']} {entry['check']}: {visible(entry['reason'])}" for entry in others)


def _items(catalogue: Catalogue, known: KnownDataset) -> list[Item]:
    ids = dataset_item_ids(catalogue, known.version.id)
    return catalogue.items(ids=ids, current_only=False)
