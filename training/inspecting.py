"""Batches as they reach the model: whose tokens they are, which carry loss, and whether they hold what training needs.

Rows are encoded, ordered and laid out by the code that a training uses; nothing is rendered a second time for show. The
whole first epoch is looked at, and its first rows are shown. Loads no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_catalog.errors import TrainingError
from data_catalog.identity import digest
from training.guards import Fault, check_pad_token, collecting
from training.models import BASE, ModelSource, open_source
from training.packing import NO_LOSS
from training.process import Progress
from training.rows import Encoder, RawRow, load_dataset, load_lines, load_replay
from training.specs import InspectCheck, InspectJob, InspectResult, Ledger, SampledSpec, SeenRow, StageSpec
from training.stages.base import Material, Stage
from training.train import STAGES

_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Line:
    """One row of a batch without its padding: token ids, and for each whether it carries loss."""

    row: str
    part: str
    """`chosen`, `rejected`, `mismatched` or `word 1`, `word 2` ... where the row has several sequences."""
    ids: list[int]
    loss: list[bool]


@dataclass
class Tally:
    """What a pass over the batches of an epoch counts."""

    cells: int = 0
    """Positions that the model computes, padding included."""
    tokens: int = 0
    targets: int = 0


def inspect(job: InspectJob, *, progress: Progress) -> InspectResult:
    """Look at a stage's batches; raise TrainingError where there is nothing to look at."""
    spec, stage = job.spec, STAGES[job.spec.stage]
    source = open_source(job.model, needs_chat_template=stage.needs_chat_template)
    raw = load_dataset(job.dataset) if job.dataset.suffix == ".parquet" else load_lines(job.dataset, "row")
    replay = load_replay(job.replay) if job.replay and job.replay_share else []
    with collecting() as faults:
        lenient = spec.model_copy(update={"max_lost_share": 1.0})  # what is lost is a check here
        material = stage.encode(lenient, source, raw, replay, job.replay_share)
    progress.write("encoded", rows=material.ledger.kept, tokens=material.ledger.tokens)
    tally, shown = Tally(), list[Line]()
    texts = {row.id for row in [*raw, *replay] if "text" in row.payload and spec.stage_name != "classify"}
    ended: dict[str, bool] = {}
    for line in _epoch(stage, spec, material, source, tally):
        if len(shown) < job.rows:
            shown.append(line)
        _note_end(line, ended, source.end_tokens, text=line.row in texts)
    by_id = {row.id: row for row in [*raw, *replay]}
    encoder = Encoder(source, spec.max_length)
    return InspectResult(
        rows=tuple(_seen(line, by_id, encoder, source.tokenizer) for line in shown),
        checks=tuple(_checks(job, source, material.ledger, faults, ended, tally)),
        ledger=material.ledger,
        cells=tally.cells,
        tokens=tally.tokens,
        target_tokens=tally.targets,
    )


def _epoch(stage: Stage, spec: StageSpec, material: Material, source: ModelSource, tally: Tally) -> Iterator[Line]:
    """Yield the lines of the first epoch's batches, in the order in which they are trained on."""
    collate, order = stage.collator(spec, material, source), iter(stage.order(spec, material))
    count = len(material.rows)
    while indices := list(islice(order, spec.batch_size)):
        # The index of an answer also says which rollout it is in; of other rows the rollout is 0, and is not read.
        batch = collate([{"row": index % count, "rollout": index // count} for index in indices])
        for line in lines_of(batch, material.rows):
            tally.tokens += len(line.ids)
            tally.targets += sum(line.loss)
            yield line
        tally.cells += sum(batch[name].numel() for name in batch if name.endswith("input_ids")) or sum(
            len(material.rows[place]) for place in batch["rows"].tolist()
        )


def lines_of(batch: Mapping[str, Any], rows: Sequence[Any]) -> list[Line]:
    """Take a batch of any stage's collator apart; `rows` are the material's, which say whose a line is."""
    here = [rows[place] for place in batch["rows"].tolist()]
    if "labels" in batch:
        return _language_lines(batch, here)
    if "chosen_input_ids" in batch:
        lines = []
        for side in _SIDES:
            loss = batch[f"{side}_labels"] != NO_LOSS
            names = [(row.id, side) for row in here]
            lines += _lines(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], loss, names)
        return lines
    if "right" in batch:
        names = [(row.id, f"word {number}") for row in here for number, _ in enumerate(row.words, start=1)]
        return _lines(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], names)
    if "label" in batch:
        names = [(row.id, "") for row in here]
        lines = _lines(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], names)
        if "KL_input_ids" in batch:
            unlearned = batch["KL_completion_mask"] * 0
            others = [(row.id, "mismatched") for row in here]
            lines += _lines(batch["KL_input_ids"], batch["KL_attention_mask"], unlearned, others)
        return lines
    if "input_ids" in batch:
        names = [(row.id, side) for side in _SIDES for row in here]
        mask = batch["attention_mask"]
        # A reward is read at the last token and nowhere else.
        last = mask * (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))
        return _lines(batch["input_ids"], mask, batch.get("completion_mask", last), names)
    return [Line(row.id, "prompt", list(row.prompt), [False] * len(row.prompt)) for row in here]


def _lines(ids: Any, mask: Any, loss: Any, names: Sequence[tuple[str, str]]) -> list[Line]:
    lengths = mask.sum(dim=1).tolist()
    return [
        Line(row, part, ids[number, :length].tolist(), loss[number, :length].bool().tolist())
        for number, ((row, part), length) in enumerate(zip(names, lengths, strict=True))
    ]


def _language_lines(batch: Mapping[str, Any], here: Sequence[Any]) -> list[Line]:
    """Cut packs at the positions that begin again at 0; what no row of the batch begins with is padding."""
    waiting = sorted(here, key=len, reverse=True)
    width = batch["input_ids"].shape[1]
    lines = []
    for number, (ids, labels) in enumerate(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)):
        positions = batch["position_ids"][number].tolist() if "position_ids" in batch else range(width)
        starts = [place for place, position in enumerate(positions) if position == 0]
        for start, end in zip(starts, [*starts[1:], width], strict=True):
            part = ids[start:end]
            row = next((row for row in waiting if part[: len(row)] == row.input_ids.tolist()), None)
            if row is not None:
                waiting.remove(row)
                loss = [label != NO_LOSS for label in labels[start : start + len(row)]]
                lines.append(Line(row.id, "", part[: len(row)], loss))
    return lines


def _note_end(line: Line, ended: dict[str, bool], end_tokens: frozenset[int], *, text: bool) -> None:
    """Note whether every stretch with loss ends in an end token; of a text that was split, its last piece does."""
    stops = [
        line.ids[place] in end_tokens
        for place, carries in enumerate(line.loss)
        if carries and not (place + 1 < len(line.loss) and line.loss[place + 1])
    ]
    if stops:
        fine = ended.get(line.row, not text)
        ended[line.row] = fine or stops[-1] if text else fine and all(stops)


def _seen(line: Line, by_id: Mapping[str, RawRow], encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> SeenRow:
    return SeenRow(
        row=line.row,
        part=line.part,
        ids=tuple(line.ids),
        tokens=tuple(_text_of(tokenizer, token) for token in line.ids),
        roles=tuple(_roles(line, by_id, encoder)),
        loss=tuple(line.loss),
    )


def _text_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return what a token stands for; its own name where it is a part of a character."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if not text or "\ufffd" in text:
        return name
    # SentencePiece drops the space that begins a text.
    return f" {text}" if name.startswith("\u2581") and not text.startswith(" ") else text


def _roles(line: Line, by_id: Mapping[str, RawRow], encoder: Encoder) -> list[str]:
    """Return whose turn each token stands in; turns that the template doesn't render apart are named together."""
    count, roles, names = len(line.ids), list[str](), list[str]()
    for message, end in _turns(line, by_id, encoder):
        names.append(message["role"])
        if end is not None and end > len(roles):
            roles += ["+".join(names)] * (end - len(roles))
            names = []
    return (roles + [""] * count)[:count]


def _turns(line: Line, by_id: Mapping[str, RawRow], encoder: Encoder) -> Iterator[tuple[Mapping[str, str], int | None]]:
    name, _, side = line.row.removesuffix(")").rpartition(" (")  # of kto: `item-3 (chosen)`
    raw = by_id.get(line.row) or by_id.get(name)
    if raw is None or "text" in raw.payload or line.part == "mismatched":
        return
    payload = raw.payload
    messages = payload["messages"] if "messages" in payload else [*payload["prompt"], *payload[line.part or side]]
    yield from zip(messages, encoder.turn_ends(messages), strict=True)


def _checks(
    job: InspectJob,
    source: ModelSource,
    ledger: Ledger,
    faults: Sequence[Fault],
    ended: Mapping[str, bool],
    tally: Tally,
) -> Iterator[InspectCheck]:
    yield _end_check(ended, faults, sampled=isinstance(job.spec, SampledSpec))
    yield _guard_check("no double BOS", "single_start", faults)
    yield _guard_check("prompt is a token prefix", "prompt_is_prefix", faults)
    yield _pad_check(source)
    yield _template_check(source, job.base)
    yield _share_check(tally, sampled=isinstance(job.spec, SampledSpec))
    yield _ledger_check(job.spec, ledger)


def _end_check(ended: Mapping[str, bool], faults: Sequence[Fault], *, sampled: bool) -> InspectCheck:
    name = "EOS is supervised"
    if sampled:
        return InspectCheck(name=name, passed=True, seen="no token carries loss: the answers are sampled")
    open_ends = [row for row, fine in ended.items() if not fine]
    of_guard = [fault for fault in faults if fault.guard == "end_supervised"]
    wrong = dict.fromkeys([*open_ends, *(fault.row_id for fault in of_guard)])
    if not wrong:
        return InspectCheck(name=name, passed=True, seen=f"in all {len(ended):,} rows")
    return InspectCheck(
        name=name,
        passed=False,
        seen=f"not in {len(wrong):,} rows, such as {next(iter(wrong))}",
        fix=of_guard[0].error.next_step
        if of_guard
        else "list the token that ends an answer as `eos_token_id` in generation_config.json",
    )


def _guard_check(name: str, guard: str, faults: Sequence[Fault]) -> InspectCheck:
    found = [fault for fault in faults if fault.guard == guard]
    if not found:
        return InspectCheck(name=name, passed=True, seen="in all rows")
    rows = len({fault.row_id for fault in found})
    return InspectCheck(
        name=name, passed=False, seen=f"{rows:,} rows fail: {found[0].error.message}", fix=found[0].error.next_step
    )


def _pad_check(source: ModelSource) -> InspectCheck:
    name = "padding is not EOS"
    try:
        return InspectCheck(name=name, passed=True, seen=check_pad_token(source.tokenizer))
    except TrainingError as error:
        return InspectCheck(name=name, passed=False, seen=error.message, fix=error.next_step)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the digest of a tokenizer's chat template; of none, `none`."""
    return digest(str(tokenizer.chat_template))[:16] if tokenizer.chat_template else "none"


def _template_check(source: ModelSource, base: Path) -> InspectCheck:
    name = "chat template is the base's"
    place = base / BASE if (base / BASE / "config.json").is_file() else base
    other = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    mine, its = template_hash(source.tokenizer), template_hash(other)
    if mine == its:
        return InspectCheck(name=name, passed=True, seen=mine)
    return InspectCheck(
        name=name,
        passed=False,
        seen=f"{mine} in {source.path}, {its} in {base}",
        fix="copy chat_template.jinja from the base, or train the stages before this one again",
    )


def _share_check(tally: Tally, *, sampled: bool) -> InspectCheck:
    padding = 1 - tally.tokens / max(1, tally.cells)
    seen = f"{tally.targets:,} of {tally.tokens:,} tokens ({tally.targets / max(1, tally.tokens):.1%})"
    return InspectCheck(
        name="tokens carry loss",
        passed=sampled or tally.targets > 0,
        seen=f"{seen}, {padding:.1%} of the positions are padding",
        fix="" if sampled or tally.targets else "look at the roles: no assistant's turn was found",
    )


def _ledger_check(spec: StageSpec, ledger: Ledger) -> InspectCheck:
    lost = ledger.truncated + ledger.dropped
    reasons = "; ".join(f"{count:,} x {reason}" for reason, count in Counter(ledger.reasons).most_common())
    passed = lost <= spec.max_lost_share * ledger.rows
    seen = f"{ledger.kept:,} kept, {ledger.truncated:,} of them truncated, {ledger.dropped:,} dropped"
    return InspectCheck(
        name=f"at most {spec.max_lost_share:.0%} of the rows are lost",
        passed=passed,
        seen=f"{seen}{f' ({reasons})' if reasons else ''}",
        fix="" if passed else "raise max_length or max_lost_share, or repair these rows",
    )
