"""What evaluation leaves behind: one score per sample, one record per gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from data_catalog.identity import make_id
from data_catalog.records import Outcome, Record


class SampleScore(Record):
    """What a scorer said of one completion. UNSCORED has no score, which is not a zero."""

    sample_id: str
    question: str
    answers: tuple[str, ...] = ()
    """The gold answers; empty for an unanswerable question."""
    completion: str
    outcome: Outcome
    score: float | None = None


class GateRecord(Record):
    """What a gate decided, and on what figures. `id` hashes all but the time and the run."""

    id: str
    candidate: str
    """What was judged: `data_catalog.registry.candidate_id` of the model's directory, so that it means exact bytes."""
    baseline: str
    stage_name: str
    outcome: str
    """`PASS`, `FAIL` or `INCONCLUSIVE`; case does not matter."""
    comparisons: tuple[Mapping[str, Any], ...] = ()
    created_at: float
    run_id: str = ""

    @classmethod
    def of(
        cls,
        *,
        candidate: str,
        baseline: str,
        stage_name: str,
        outcome: str,
        comparisons: Sequence[Mapping[str, Any]],
        created_at: float,
        run_id: str = "",
    ) -> Self:
        """Make the record with the id that its content has."""
        identity = {
            "candidate": candidate,
            "baseline": baseline,
            "stage": stage_name,
            "outcome": outcome,
            "comparisons": comparisons,
        }
        return cls(
            id=make_id("gate", identity),
            candidate=candidate,
            baseline=baseline,
            stage_name=stage_name,
            outcome=outcome,
            comparisons=tuple(comparisons),
            created_at=created_at,
            run_id=run_id,
        )

    @property
    def passed(self) -> bool:
        """Whether the outcome is PASS; INCONCLUSIVE is not."""
        return self.outcome.casefold() == "pass"
