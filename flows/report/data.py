"""What the report needs to know: the records of a run, put together. Every field but three may be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_catalog.evaluation_records import SampleScore
from data_catalog.funnel import FunnelRow
from data_catalog.records import Chunk, DatasetVersion, Item, ModelVersion, Outcome, Verdict
from evaluation.gates import Comparison, GateDecision, GateOutcome
from evaluation.specs import Requirement
from flows.progress import StepTime
from training.specs import TrainResult


@dataclass(frozen=True, kw_only=True)
class ItemSample:
    """One item to show, with its source and what the checks said."""

    item: Item
    verdicts: tuple[Verdict, ...] = ()
    chunk: Chunk | None = None
    document_path: str = ""

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that kept the item out."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome is not Outcome.PASSED)


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """What one model answered, by suite. `label` is `base` or the stage that made it."""

    label: str
    suites: Mapping[str, Sequence[SampleScore]]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One training stage: what it learned from, how it went, what its gate said."""

    name: str
    result: TrainResult
    dataset: DatasetVersion | None = None
    decision: GateDecision | None = None
    gate_id: str = ""
    run_id: str = ""
    model: str = ""
    """Fingerprint of the model that the stage made."""
    classified: tuple[str, ...] = ()
    """What a `classify` stage made of its held-out texts, in lines."""


@dataclass(frozen=True, kw_only=True)
class ImproveRound:
    """One round of `improve`; round 0 is what there was before."""

    number: int
    failed: int = 0
    """Samples that the round before had failed, of the suites whose rules did not pass."""
    chunks: int = 0
    """Chunks that state what was failed, and were asked about again."""
    documents: int = 0
    """Documents of these chunks, and those on which the model had answered what it should not."""
    asked: int = 0
    """New requests to the teacher."""
    accepted: int = 0
    """New items that passed the checks."""
    outcome: GateOutcome | None = None
    """Of the worst gate; None where nothing new was accepted, so that nothing was trained."""
    gap: float | None = None
    """By how much the rule that is furthest from its threshold misses it (below 0) or exceeds it, in score units."""
    kept: bool = True
    """Whether the round came nearer to passing than what there was before it."""


@dataclass(frozen=True, kw_only=True)
class NextCommand:
    """A command the user may want now, and what it does."""

    command: str
    purpose: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """One run.

    Models come in the order in which they were made: the base first, the newest last. A report of a run that stopped
    early holds what there is.
    """

    project: str
    started: float
    """Seconds since the epoch, as is `ended`."""
    ended: float
    headline_suite: str | None = None
    """The suite of the headline; left out, the first that a gate demands to be better, else the first there is."""
    suite_labels: Mapping[str, str] = field(default_factory=dict)
    """How a suite is called in headings, such as `Closed-book answers`; its name where left out."""
    stopped: str = ""
    """Why the run ended early, in a sentence; empty when it went through."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """Such as `cores: 2`, `memory: 16 GiB`, `accelerator: none`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version."""
    teacher: str = ""
    steps: tuple[StepTime, ...] = ()
    documents: int = 0
    chunks: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    """(path, reason) of the documents that were left out."""
    remarks: tuple[tuple[str, str], ...] = ()
    """(path, what is to know) of documents that were read, such as hidden text that was removed."""
    requests_asked: int = 0
    """Requests sent to the teacher in this run."""
    requests_cached: int = 0
    """Requests that had been answered in an earlier one."""
    funnel: tuple[FunnelRow, ...] = ()
    unparsed: Mapping[str, int] = field(default_factory=dict)
    """Why answers gave no item, and how often."""
    accepted: tuple[ItemSample, ...] = ()
    """Samples of what was kept."""
    rejected: tuple[ItemSample, ...] = ()
    """Samples of what was not, one or more per reason; the funnel's reasons link to those that it names."""
    datasets: tuple[DatasetVersion, ...] = ()
    """Dataset versions of this run; those of `stages` need not be repeated."""
    stages: tuple[StageReport, ...] = ()
    base: str = ""
    """Fingerprint of the base model."""
    base_path: str = ""
    models: tuple[ModelScores, ...] = ()
    rounds: tuple[ImproveRound, ...] = ()
    """What `improve` did, round 0 first; empty where it did nothing."""
    version: ModelVersion | None = None
    """The registered model; None when none was."""
    notes: tuple[str, ...] = ()
    next_commands: tuple[NextCommand, ...] = ()

    @property
    def outcome(self) -> GateOutcome | None:
        """The worst gate of the run; None when there was no gate."""
        seen = {stage.decision.outcome for stage in self.stages if stage.decision is not None}
        order = (GateOutcome.FAIL, GateOutcome.INCONCLUSIVE, GateOutcome.PASS)
        return next((outcome for outcome in order if outcome in seen), None)

    @property
    def suites(self) -> tuple[str, ...]:
        """Every suite that any model was asked, in order of appearance."""
        return tuple(dict.fromkeys(name for model in self.models for name in model.suites))

    @property
    def headline(self) -> str | None:
        """The suite that the headline speaks of; None when nothing was evaluated."""
        if self.headline_suite in self.suites:
            return self.headline_suite
        better = (entry.suite for entry in self.comparisons if entry.require is Requirement.BETTER)
        return next((name for name in (*better, *self.suites) if name in self.suites), None)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of all gates, in order."""
        decisions = (stage.decision for stage in self.stages)
        return tuple(entry for decision in decisions if decision is not None for entry in decision.comparisons)

    @property
    def all_datasets(self) -> tuple[DatasetVersion, ...]:
        """Each dataset version once."""
        of_stages = tuple(stage.dataset for stage in self.stages if stage.dataset is not None)
        return tuple({dataset.id: dataset for dataset in (*self.datasets, *of_stages)}.values())

    def label(self, suite: str) -> str:
        """How a suite is called in headings."""
        return self.suite_labels.get(suite, suite)
