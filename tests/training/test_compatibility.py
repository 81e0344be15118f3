"""What is refused before anything starts, and that each refusal names a combination that is not refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.tiny import REQUIRED, STAGE_SPECS
from training.compatibility import (
    ADAPTED_TYPE,
    PACKABLE,
    PREFERENCE,
    SAMPLING,
    Combination,
    adapter_of,
    follows,
    refusal,
    table,
)
from training.method_specs import (
    AdapterSpec,
    FullSpec,
    Ia3Spec,
    LoraSpec,
    PrefixTuningSpec,
    PromptTuningSpec,
    PTuningSpec,
    PTuningV2Spec,
    QloraSpec,
)
from training.specs import DpoSpec, PretrainSpec, SftSpec

SOFT = (PromptTuningSpec, PrefixTuningSpec, PTuningSpec, PTuningV2Spec)
WITH_A_CACHE = (PrefixTuningSpec, PTuningV2Spec)
CELLS = list(table())


def name_of(cell: Combination) -> str:
    return str(cell.method.model_fields["name"].default)


def settings_of(cell: Combination) -> dict[str, Any]:
    """Return what a user would write for a cell. A stage that can't pack has no such key."""
    packing = {"packing": cell.packing} if cell.stage in PACKABLE or cell.packing else {}
    return {
        "method": name_of(cell),
        "gradient_checkpointing": cell.recompute,
        **packing,
        **REQUIRED.get(cell.stage, {}),
    }


def test_the_table_has_every_cell_once() -> None:
    assert len(CELLS) == 9 * 11 * 2 * 2
    assert len({(cell.method, cell.stage, cell.packing, cell.recompute) for cell in CELLS}) == len(CELLS)


def test_what_is_refused_is_what_does_not_work() -> None:
    """Written out here a second time, by hand, from what was seen of the libraries."""
    for cell in CELLS:
        packed_pairs = cell.packing and cell.stage not in PACKABLE
        packed_prompt = cell.packing and cell.method in SOFT
        recomputed_cache = cell.recompute and cell.method in WITH_A_CACHE
        headless = cell.stage in ("reward", "ppo") and cell.method not in (FullSpec, LoraSpec)
        answers = cell.stage in SAMPLING and (cell.recompute or cell.method in SOFT)
        refused = packed_pairs or packed_prompt or recomputed_cache or headless or answers
        assert (cell.refusal is not None) == refused, cell


@pytest.mark.parametrize("refused", [True, False])
def test_a_configuration_says_what_the_table_says(refused: bool) -> None:
    for cell in CELLS:
        if (cell.refusal is not None) != refused:
            continue
        stage = STAGE_SPECS[cell.stage]
        if not refused:
            spec = stage.model_validate(settings_of(cell))
            assert spec.packs == cell.packing
            continue
        with pytest.raises(ValidationError) as caught:
            stage.model_validate(settings_of(cell))
        # Pairs have no `packing` to set, so there the closed spec answers.
        expected = (
            "Extra inputs are not permitted" if cell.packing and cell.stage not in PACKABLE else "nearest that works: "
        )
        assert expected in str(caught.value)


def test_the_nearest_combination_works() -> None:
    """Follow each refusal's advice until nothing is refused."""
    for cell in CELLS:
        if cell.refusal is None:
            continue
        assert cell.refusal.reason
        method, packing, recompute = cell.method(), cell.packing, cell.recompute
        while (said := refusal(method, cell.stage, packing=packing, recompute=recompute)) is not None:
            if "method: lora" in said.nearest:
                method = LoraSpec()
                continue
            changed = packing and ("packing: false" in said.nearest or "without packing" in said.nearest)
            assert changed or (recompute and "gradient_checkpointing: false" in said.nearest)
            packing, recompute = (False, recompute) if changed else (packing, False)


def test_rows_are_packed_wherever_the_method_allows_it() -> None:
    assert SftSpec().packs
    assert PretrainSpec(method=LoraSpec()).packs
    assert not SftSpec(packing=False).packs
    assert not DpoSpec().packs
    for method in SOFT:
        assert not SftSpec(method=method()).packs
        assert not PretrainSpec(method=method()).packs


def test_what_may_follow_what() -> None:
    for earlier in (None, FullSpec(), LoraSpec(), QloraSpec(), Ia3Spec()):
        for later in (FullSpec(), LoraSpec(), PromptTuningSpec(), AdapterSpec()):
            assert follows(earlier, later) is None
    for unmerged in (AdapterSpec(), PromptTuningSpec(), PrefixTuningSpec(), PTuningSpec(), PTuningV2Spec()):
        assert follows(unmerged, unmerged) is None
        refused = follows(unmerged, LoraSpec())
        assert refused is not None
        assert "can't be merged" in refused.reason
        assert unmerged.name in refused.nearest
    other = follows(PromptTuningSpec(tokens=8), PromptTuningSpec(tokens=9))
    assert other is not None
    assert "other settings of prompt_tuning" in other.reason


def test_a_directory_says_which_adapter_it_carries(tmp_path: Path) -> None:
    assert adapter_of(tmp_path) is None
    for content, found in (
        ({"model_type": "llama"}, None),
        ({"model_type": ADAPTED_TYPE, "method": {"name": "p_tuning", "tokens": 9}}, PTuningSpec(tokens=9)),
        ({"model_type": ADAPTED_TYPE, "method": {"name": "unheard"}}, None),
        ({"model_type": ADAPTED_TYPE}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert adapter_of(tmp_path) == found
    (tmp_path / "config.json").write_text("{")
    assert adapter_of(tmp_path) is None


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "lora", "init": "pissa", "dora": True}, "dora can't start from pissa"),
        ({"name": "lora", "init": "olora", "dora": True}, "nearest that works"),
        # Reloaded, its logits differ from the trained ones, so the quick PiSSA is not offered.
        ({"name": "lora", "init": "pissa_niter_16"}, "'zero', 'pissa' or 'olora'"),
        ({"name": "qlora", "init": "pissa"}, "Extra inputs are not permitted"),
        ({"name": "lora", "b_rate_ratio": 0.5}, "greater than or equal to 1"),
        ({"name": "prompt_tuning", "init": "text"}, "`text` goes with `init: text`"),
        ({"name": "prompt_tuning", "text": "Answer."}, "`text` goes with `init: text`"),
        ({"name": "prompt_tuning", "tokens": 0}, "greater than or equal to 1"),
        ({"name": "adapter", "placement": "lora"}, "'pfeiffer' or 'houlsby'"),
        ({"name": "prefix_tuning", "encoder": "mlp"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_can_not_be_are_refused(method: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SftSpec.model_validate({"method": method})
    assert said in str(caught.value)


def test_the_page_has_the_whole_table() -> None:
    """docs/methods.md lists each method's answer to each question; this is what it must say."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text("utf-8")
    for method in dict.fromkeys(cell.method for cell in CELLS):
        cells = [cell for cell in CELLS if cell.method is method]
        stages = "yes" if any(c.refusal is None and c.stage in PREFERENCE for c in cells) else "no"
        packing = "yes" if any(c.refusal is None and c.packing for c in cells) else "no"
        recompute = "yes" if any(c.refusal is None and c.recompute for c in cells) else "no"
        merges = "yes" if method.merges else "no"
        assert f"| `{name_of(cells[0])}` | {method.sits} | {stages} | {packing} | {recompute} | {merges} |" in page
