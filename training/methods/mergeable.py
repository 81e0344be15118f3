"""What the methods share whose adapter can be added to the weights it stands on."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from training.guards import MERGE_TOLERANCE, check_adapter_active, check_parity
from training.methods.base import BF16_TOLERANCE, Difference, Finished, Method, difference, logits
from training.models import ModelSource
from training.specs import StageSpec


class Mergeable(Method):
    """Ends as an ordinary model: the adapter is saved, put on the full-precision base, and merged."""

    def save_adapter(self, trained: PeftModel, spec: StageSpec, folder: Path) -> None:
        """Write the adapter so that it fits the untouched base."""
        trained.save_pretrained(folder)

    def finish(
        self, trained: PeftModel, spec: StageSpec, source: ModelSource, probe: torch.Tensor, work: Path
    ) -> Finished:
        """Save the adapter, put it on the full-precision base, merge, and compare logits at each step."""
        trained.eval()
        in_training = logits(trained, probe)
        adapter = work / "adapter"
        self.save_adapter(trained, spec, adapter)
        attached = PeftModel.from_pretrained(self.base(source, torch.float32), str(adapter)).eval()
        apart = logits(attached, probe)
        with attached.disable_adapter():
            base = logits(attached, probe)
        merged = attached.merge_and_unload(safe_merge=True)
        together = difference(logits(merged, probe), apart)
        return Finished(
            merged,
            {
                "adapter_active": check_adapter_active(difference(apart, base).largest),
                "merge_parity": check_parity("merging", together.largest, together.scale, MERGE_TOLERANCE),
                **self.saved_parity(trained, difference(apart, in_training)),
            },
        )

    def saved_parity(self, trained: PeftModel, gap: Difference) -> dict[str, str]:
        """Check that the saved adapter on the full-precision base is what was trained."""
        exact = trained.get_base_model().dtype == torch.float32
        tolerance = MERGE_TOLERANCE if exact else BF16_TOLERANCE
        return {"save_parity": check_parity("saving", gap.largest, gap.scale, tolerance)}
