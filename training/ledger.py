"""The ledger: what became of each row before training, so that nothing is lost in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from data_catalog.errors import TrainingError
from training.specs import Ledger


class LedgerBook:
    """Counts rows as they are kept, truncated or dropped, each loss with its reason."""

    def __init__(self) -> None:
        self._kept = 0
        self._dropped = 0
        self._truncated = 0
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def keep(self) -> None:
        """Count a row that is trained on whole."""
        self._kept += 1

    def truncate(self, row_id: str, reason: str) -> None:
        """Count a row of which only a part is trained on."""
        self._kept += 1
        self._truncated += 1
        self._note(row_id, reason)

    def drop(self, row_id: str, reason: str) -> None:
        """Count a row that is not trained on."""
        self._dropped += 1
        self._note(row_id, reason)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Reason to the number of rows that were lost, whole or in part, for it."""
        return dict(self._reasons)

    def _note(self, row_id: str, reason: str) -> None:
        self._reasons[reason] += 1
        self._examples.setdefault(reason, row_id)

    def close(self, *, max_lost_share: float, replay_rows: int, tokens: int, target_tokens: int) -> Ledger:
        """Return the ledger, or raise TrainingError where too much was lost or nothing is left to train on."""
        rows = self._kept + self._dropped
        lost = self._truncated + self._dropped
        if not self._kept or target_tokens == 0:
            raise TrainingError(
                f"nothing to train on: of {rows} rows none is left ({self._why()})" if rows else "the dataset is empty",
                next_step="look at the dataset, and at max_length",
            )
        if lost > max_lost_share * rows:
            raise TrainingError(
                f"{lost} of {rows} rows would be truncated or dropped ({self._why()})",
                valid=f"at most {max_lost_share:.0%} (max_lost_share)",
                next_step="raise max_length or max_lost_share, or repair these rows",
            )
        return Ledger(
            rows=rows,
            kept=self._kept,
            truncated=self._truncated,
            dropped=self._dropped,
            reasons=dict(sorted(self._reasons.items())),
            replay_rows=replay_rows,
            tokens=tokens,
            target_tokens=target_tokens,
        )

    def _why(self) -> str:
        return "; ".join(
            f"{count} x {reason}, such as {self._examples[reason]}" for reason, count in self._reasons.most_common()
        )
