"""Looking at batches: what is shown is what the trainer's collator makes, and each check fails where it should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_train import spec_of
from tests.training.tiny import STAGE_SPECS, Lines, messages, payloads, write_parquet
from training.compatibility import SAMPLING
from training.inspecting import inspect
from training.specs import InspectCheck, InspectJob, InspectResult, SeenRow


def look(
    base: Path, folder: Path, stage: str, rows: Sequence[dict[str, Any]], *, model: Path | None = None, **settings: Any
) -> InspectResult:
    dataset = write_parquet(folder / "rows.parquet", rows)
    spec = spec_of(stage, "lora", **settings)
    job = InspectJob(spec=spec, model=model or base, base=base, dataset=dataset, rows=3)
    return inspect(job, progress=Lines())


def failed(result: InspectResult) -> dict[str, InspectCheck]:
    return {check.name: check for check in result.checks if not check.passed}


def said(row: SeenRow, *, loss: bool) -> str:
    return "".join(token for token, carries in zip(row.tokens, row.loss, strict=True) if carries == loss)


@pytest.mark.parametrize("stage", sorted(STAGE_SPECS))
def test_every_stage_shows_its_rows_and_passes(base: Path, tmp_path: Path, stage: str) -> None:
    result = look(base, tmp_path, stage, payloads(stage))
    assert not failed(result)
    assert len(result.rows) == 3
    for row in result.rows:
        assert len(row.ids) == len(row.tokens) == len(row.roles) == len(row.loss)
        assert "<|pad|>" not in row.tokens
    assert result.cells >= result.tokens >= result.target_tokens
    assert (result.target_tokens == 0) == (stage in SAMPLING)


@pytest.mark.parametrize("packing", [False, True])
def test_a_conversation_in_its_tokens(base: Path, tmp_path: Path, packing: bool) -> None:
    """The rows are told apart in a pack, whatever stands beside them."""
    turns = [
        {"role": "system", "content": "Be brief."},
        *messages("One?", "It is red.")["messages"],
        *messages("Two?", "It is blue.")["messages"],
    ]
    rows = [{"messages": turns}, *payloads("sft", 5)]
    dataset = write_parquet(tmp_path / "rows.parquet", rows)
    spec = spec_of("sft", "lora", packing=packing, batch_size=8)
    result = inspect(InspectJob(spec=spec, model=base, base=base, dataset=dataset, rows=6), progress=Lines())
    assert sorted(row.row for row in result.rows) == [f"item-{number}" for number in range(6)]
    (row,) = [row for row in result.rows if row.row == "item-0"]
    assert said(row, loss=True) == "It is red.<|im_end|>It is blue.<|im_end|>"
    assert list(dict.fromkeys(row.roles)) == ["system", "user", "assistant"]
    by_role = "".join(token for token, role in zip(row.tokens, row.roles, strict=True) if role == "system")
    assert by_role == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert "".join(row.tokens).startswith(by_role)


def test_a_pair_shows_both_sides(base: Path, tmp_path: Path) -> None:
    result = look(base, tmp_path, "dpo", payloads("dpo", 1))
    chosen, rejected = result.rows
    assert (chosen.part, rejected.part) == ("chosen", "rejected")
    assert said(chosen, loss=False) == said(rejected, loss=False)
    assert said(rejected, loss=True).endswith(" Or not.<|im_end|>")


def test_a_reward_is_read_at_the_last_token(base: Path, tmp_path: Path) -> None:
    result = look(base, tmp_path, "reward", payloads("reward", 1))
    assert [said(row, loss=True) for row in result.rows] == ["<|im_end|>", "<|im_end|>"]


def test_a_long_text_ends_once(base: Path, tmp_path: Path) -> None:
    """It is split; only its last piece has an end, and that is right so."""
    result = look(base, tmp_path, "pretrain", [{"text": "The rotor is red. " * 40}], max_length=32)
    assert not failed(result)


def without_end(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("message['content'] + '<|im_end|>'", "message['content']"))


def turned(folder: Path) -> None:
    """A template that renders the question otherwise once an answer follows."""
    template = folder / "chat_template.jinja"
    template.write_text("{% if not add_generation_prompt %}late {% endif %}" + template.read_text())


def doubled_start(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["bos_token"] = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token + bos_token }}" + template.read_text())


@pytest.mark.parametrize(
    ("damage", "check", "fix"),
    [
        (without_end, "EOS is supervised", "eos_token_id"),
        (turned, "prompt is a token prefix", "correct the chat template"),
        (doubled_start, "no double BOS", "remove `bos_token`"),
    ],
)
def test_a_fault_is_shown_beside_the_rows(
    base: Path, tmp_path: Path, damage: Callable[[Path], None], check: str, fix: str
) -> None:
    """Training would stop at the first such row; here all are counted, and the template is told to be another."""
    model = shutil.copytree(base, tmp_path / "model")
    damage(model)
    result = look(base, tmp_path, "sft", payloads("sft", 5), model=model)
    wrong = failed(result)
    assert fix in wrong[check].fix
    assert "5 rows" in wrong[check].seen
    assert "copy chat_template.jinja" in wrong["chat template is the base's"].fix
    assert result.rows


def test_lost_rows_are_told_with_their_reasons(base: Path, tmp_path: Path) -> None:
    rows = [*payloads("sft", 3), messages("What colour is the rotor? " * 40, "Red."), messages("What?", " ")]
    (check,) = failed(look(base, tmp_path, "sft", rows, max_length=64)).values()
    assert check.name == "at most 5% of the rows are lost"
    assert "3 kept, 0 of them truncated, 2 dropped" in check.seen
    assert "1 x longer than max_length" in check.seen
    assert "max_lost_share" in check.fix
