"""The plan: which stages a goal takes, with every setting, its reason, and what it takes of the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError, MachineError
from flows.advising.fitting import Fitted, fit, host_need
from flows.advising.given import Data, Goal, Machine, Student
from flows.advising.methods import FEW, Candidate, candidates, rate_of
from flows.config import StageDataSpec
from training.footprint import MARGIN, Batch, size, step_operations
from training.method_specs import AnyMethod, FullSpec, SoftPromptSettings
from training.stage_specs import DpoSpec, PretrainSpec, SftSpec, StageSpec

REPLAY_SHARE = 0.25
"""Share of general text while a student reads documents: 25 to 50 % for a strong shift (arXiv 2403.08763)."""
SFT_PART = 0.8
"""Share of the questions that `sft` learns from where a preference stage learns from the rest."""
BIG = 10_000
"""Examples from which a step takes 32 rows instead of 8."""
FEW_STEPS, MOST_EPOCHS = 1_000, 50
"""Steps that a soft prompt is trained for on little data (T-Few's, arXiv 2205.05638), in so many epochs at most (PEFT's
guide to prompt tuning)."""
_OFF = f"{100 * (MARGIN - 1):.0f} %"
SHORT = 16
"""Positions that a model must know beside a soft prompt; the least `max_length`."""

STAGES: Mapping[Goal, str] = {
    Goal.KNOWLEDGE: "continued pretraining, so that the field's terms are known, then SFT, so that they are used",
    Goal.BEHAVIOUR: "SFT: loss on what the assistant says",
    Goal.PREFERENCE: "SFT, then DPO on the student's own mistakes",
    Goal.CLASSIFICATION: "SFT on prompts and labels; a suite scores it with `scorer: classification`",
    Goal.TASKS: "SFT, one stage and one adapter a task",
}


@dataclass(frozen=True)
class Choice:
    """One setting, and its reason with the source."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the plan."""

    name: str
    choices: tuple[Choice, ...]
    """Of `train`, in the order in which they are written; `stage` and `method` first."""
    data: tuple[Choice, ...]
    """Of `data`."""
    fitted: Fitted
    steps: int
    seconds: float | None
    """At least; None where the machine's speed is not known."""

    @property
    def spec(self) -> StageSpec:
        """The settings as they fit."""
        return self.fitted.spec


@dataclass(frozen=True)
class Advice:
    """Stages for a goal on a machine, and what else is to be known."""

    student: Student
    machine: Machine
    data: Data
    goal: Goal
    stages: tuple[PlannedStage, ...]
    replay: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fitted.fits for stage in self.stages)

    @property
    def longest(self) -> int:
        """The shortest `max_length` of the stages: what a chunk has to fit into."""
        return min(stage.spec.max_length for stage in self.stages)


@dataclass(frozen=True)
class _Rows:
    """What a stage learns from: rows and their tokens, replay included."""

    count: int
    tokens: int | None
    data: dict[str, Choice] = field(default_factory=dict)


def advise(
    student: Student, machine: Machine, data: Data, goal: Goal, *, max_length: int, replay: Path | None = None
) -> Advice:
    """Return the plan for a goal.

    Args:
        student: what is trained.
        machine: where.
        data: what it learns from.
        goal: what it shall be able to do.
        max_length: longest row in tokens; less where the student knows fewer positions.
        replay: a file of general rows that keep the student's other skills.

    Raises:
        ConfigError: the student knows too few positions for any row.
        MachineError: the machine's main memory can't hold the base that a stage is merged onto.
    """
    if machine.gpu and machine.host is not None and host_need(student.shape) > machine.host:
        raise MachineError(
            f"{student.path} takes {size(host_need(student.shape))} of main memory beside the GPU, and "
            f"{size(machine.host)} are there: what was trained is merged onto the base in float32",
            valid=f"at least {size(host_need(student.shape))}",
            next_step="take a smaller model, or a machine with more main memory",
        )
    listed = candidates(goal, data.examples, student.shape.parameters)
    kinds: list[type[StageSpec]] = [PretrainSpec] if goal is Goal.KNOWLEDGE and data.text_tokens else []
    kinds = [*kinds, SftSpec, *([DpoSpec] if goal is Goal.PREFERENCE else [])]
    stages = [_stage(kind, student, machine, data, goal, listed, max_length, replay) for kind in kinds]
    return Advice(student, machine, data, goal, tuple(stages), replay, tuple(_notes(goal, data, stages, replay)))


def check_fits(advice: Advice) -> None:
    """Raise MachineError where a stage does not fit, whatever is changed."""
    over = [stage for stage in advice.stages if not stage.fitted.fits]
    if over:
        least = max(stage.fitted.footprint.total for stage in over) * MARGIN
        raise MachineError(
            f"{', '.join(stage.name for stage in over)} would not fit: {size(advice.machine.room)} are there, and the "
            f"least that was found takes {size(least)}, with the {_OFF} that a prediction may be off",
            valid=f"at least {size(least)}",
            next_step="take a smaller model, or a machine with more memory (--gpu-gib and --cpu-gib try one)",
        )


def _stage(
    kind: type[StageSpec],
    student: Student,
    machine: Machine,
    data: Data,
    goal: Goal,
    listed: Sequence[Candidate],
    max_length: int,
    replay: Path | None,
) -> PlannedStage:
    rows = _rows(kind, data, goal, replay)
    drafts = [_choices(kind, candidate, student, rows.count, max_length) for candidate in listed]
    specs = [kind.model_validate({choice.key: choice.value for choice in draft}) for draft in drafts]
    fitted = fit(student.shape, specs, machine)
    why = "so that it fits" if fitted.fits else "the nearest to fitting"
    why += f" into {size(machine.safe)}: what is free, less the {_OFF} that a prediction may be off"
    choices = [
        replace(choice, value=fitted.changed[choice.key], reason=f"instead of {choice.value}, {why}")
        if choice.key in fitted.changed
        else choice
        for choice in drafts[fitted.place]
    ]
    written = {choice.key for choice in choices}
    choices += [
        Choice(key, value, f"{_CHANGES[key]}; {why}") for key, value in fitted.changed.items() if key not in written
    ]
    each = fitted.spec.batch_size * fitted.spec.gradient_accumulation
    steps = math.ceil(math.ceil(rows.count / each) * fitted.spec.epochs)
    seconds = _seconds(student, machine, fitted.spec, rows)
    return PlannedStage(_NAMES[kind], tuple(choices), tuple(rows.data.values()), fitted, steps, seconds)


_NAMES: Mapping[type[StageSpec], str] = {PretrainSpec: "read", SftSpec: "learn", DpoSpec: "prefer"}
_CHANGES = {
    "gradient_accumulation": "a step has the same rows, in pieces",
    "gradient_checkpointing": "activations are computed again, in about a third more time",
}


def _rows(kind: type[StageSpec], data: Data, goal: Goal, replay: Path | None) -> _Rows:
    """Return what a stage learns from, and the settings of `data` that say so."""
    said: dict[str, Choice] = {}
    mean = None if data.example_tokens is None else data.example_tokens / max(1, data.examples)
    if kind is DpoSpec:
        spec = StageDataSpec()
        questions = round((1 - SFT_PART) * data.examples)
        pairs = max(1, min(spec.max_pairs, questions * spec.samples))
        said["part"] = Choice("part", [SFT_PART, 1.0], "on questions that SFT trained on the student makes no mistakes")
        return _Rows(pairs, None if mean is None else round(2 * mean * pairs), data=said)
    count, tokens = data.examples, data.example_tokens
    if kind is PretrainSpec:
        count, tokens = data.text_rows, data.text_tokens
    if kind is SftSpec and goal is Goal.PREFERENCE:
        said["part"] = Choice("part", [0.0, SFT_PART], "the rest is for the preference stage")
        count, tokens = round(SFT_PART * count), None if tokens is None else round(SFT_PART * tokens)
    if replay is not None and goal is Goal.KNOWLEDGE:
        reason = (
            "25 to 50 % for a strong shift, or other skills are forgotten (arXiv 2403.08763)"
            if kind is PretrainSpec
            else "as before it; LAB replays in its later phases too (arXiv 2403.01081)"
        )
        said["replay_share"] = Choice("replay_share", REPLAY_SHARE, reason)
        count, tokens = round(count / (1 - REPLAY_SHARE)), round(tokens / (1 - REPLAY_SHARE)) if tokens else tokens
    return _Rows(max(1, count), tokens, data=said)


def _choices(kind: type[StageSpec], candidate: Candidate, student: Student, rows: int, max_length: int) -> list[Choice]:
    method = candidate.method
    settings = method.model_dump(mode="json", exclude_defaults=True)
    batch = 32 if rows >= BIG else 8
    why_batch = (
        "LoRA does best with at most 32 rows a step (LoRA Without Regret); fewer would make more steps of many rows"
        if rows >= BIG
        else f"few rows a step, so that {rows:,} rows make enough steps"
    )
    length, why_length = _length(student, method, max_length)
    epochs, why_epochs = _epochs(kind, method, rows, batch)
    rate, why_rate = _rate(kind, method, student.shape.parameters)
    return [
        Choice("stage", kind.model_fields["stage"].default, _KINDS[kind]),
        Choice("method", {"name": method.name, **settings}, candidate.reason),
        Choice("learning_rate", rate, why_rate),
        Choice("epochs", epochs, why_epochs),
        Choice("batch_size", batch, why_batch),
        Choice("max_length", length, why_length),
    ]


_KINDS: Mapping[type[StageSpec], str] = {
    PretrainSpec: "every token is a target; the rate warms up again and decays again (arXiv 2403.08763)",
    SftSpec: "loss on what the assistant says only",
    DpoSpec: "answers that are preferred, against the student's own mistakes (arXiv 2305.18290; Tülu 3, 2411.15124)",
}


def _length(student: Student, method: AnyMethod, wanted: int) -> tuple[int, str]:
    taken = method.virtual_tokens
    if student.positions is not None and student.positions - taken < wanted:
        known = student.positions - taken
        if known < SHORT:
            raise ConfigError(
                f"{student.path} knows {student.positions} positions, and {method.name} takes {taken} of them",
                valid=f"at least {taken + SHORT} positions",
                next_step="take a model with a longer context",
            )
        beside = f", {taken} of which the virtual tokens take" if taken else ""
        return known, f"the student knows {student.positions:,} positions{beside}"
    return wanted, "as asked for (--max-length; TRL's default is 1,024); longer rows are counted, and stop the stage"


def _epochs(kind: type[StageSpec], method: AnyMethod, rows: int, batch: int) -> tuple[float, str]:
    if kind is DpoSpec:
        return 1.0, "one pass over the pairs, as in Tülu 3 (arXiv 2411.15124)"
    if isinstance(method, SoftPromptSettings) and rows < FEW:
        epochs = min(MOST_EPOCHS, max(3, math.ceil(FEW_STEPS * batch / rows)))
        why = f"about {FEW_STEPS:,} steps (arXiv 2205.05638), at most {MOST_EPOCHS} passes (PEFT's guide)"
        return float(epochs), why
    return 3.0, "as in Stanford Alpaca, and transformers' default"


def _rate(kind: type[StageSpec], method: AnyMethod, parameters: int) -> tuple[float, str]:
    if kind is DpoSpec:
        full = isinstance(method, FullSpec)
        return (
            (5e-7, "full weights; Tülu 3 (arXiv 2411.15124)")
            if full
            else (
                5e-6,
                "ten times the 5e-7 of full weights (Tülu 3, arXiv 2411.15124; LoRA Without Regret)",
            )
        )
    rate = rate_of(method, parameters)
    return rate.value, rate.source


def _seconds(student: Student, machine: Machine, spec: StageSpec, rows: _Rows) -> float | None:
    """Return the least time of a stage: its products at the speed of a large one, and no padding.

    Half of the tokens are taken as targets where a row is a question with its answer.
    """
    if machine.speed is None:
        return None
    tokens = rows.tokens if rows.tokens is not None else rows.count * spec.max_length
    width = max(1, min(spec.max_length, round(tokens / rows.count)))
    targets = width if isinstance(spec, PretrainSpec) else width // 2
    one = step_operations(student.shape, spec, Batch(1, width, targets))
    return one * tokens / width * spec.epochs / machine.speed


def _notes(goal: Goal, data: Data, stages: Sequence[PlannedStage], replay: Path | None) -> list[str]:
    notes = []
    if goal is Goal.CLASSIFICATION:
        notes.append(
            "labelled texts in a file can be trained on by `train: {stage: classify}` with their labels and templates "
            "instead, which scores held-out ones too (docs/stages.md)"
        )
    if goal is Goal.KNOWLEDGE and replay is None:
        notes.append(
            "without --replay FILE (general rows) the student may forget other skills (arXiv 2403.08763); "
            "let a gate on a suite of them watch"
        )
    if goal is Goal.KNOWLEDGE and not data.text_tokens:
        notes.append(
            "no continued pretraining: there is no text to read (--documents, or --tokens alone), only examples"
        )
    apart = [stage for stage in stages if not stage.spec.method.merges]
    for stage in apart:
        notes.append(
            f"{stage.name}: {stage.spec.method.name} can't be merged, each version holds a copy of the base, and only "
            "Tutelage answers with it; `method: lora` leaves an ordinary model (docs/methods.md)"
        )
    return notes
