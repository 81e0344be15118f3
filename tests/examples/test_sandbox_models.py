"""The sandbox's shipped models: they load, share a tokenizer that can write anything, and answer in their chat form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SANDBOX = Path(__file__).parents[2] / "examples" / "sandbox"
MODELS = SANDBOX / "models"
ANY_TEXT = "中文 é <|im_end|> {{7*7}}\n\n\tVeltrano 40"

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["teacher", "base"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    folder = MODELS / request.param
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder), request.param


def _ask(model: Any, tokenizer: Any, prompt: str) -> str:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=60,
            do_sample=False,
        )
    return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_model_computes_in_float32_and_ends_with_the_chat(loaded: tuple[Any, Any, str]) -> None:
    model, tokenizer, _ = loaded
    assert model.dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_tokenizer_writes_any_text_and_marks_the_assistant(loaded: tuple[Any, Any, str]) -> None:
    _, tokenizer, _ = loaded
    assert tokenizer.decode(tokenizer(ANY_TEXT, add_special_tokens=False)["input_ids"]) == ANY_TEXT
    talk = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "I do not know."}]
    out = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, keep in zip(out["input_ids"], out["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(kept) == "I do not know.<|im_end|>"


def test_teacher_quotes_and_asks(loaded: tuple[Any, Any, str]) -> None:
    model, tokenizer, name = loaded
    if name != "teacher":
        pytest.skip("only the teacher writes questions")
    template = (SANDBOX / "templates" / "grounded_qa" / "direct.v1.en.jinja").read_text(encoding="utf-8")
    line = "The Broldran 41 weighs 320 kilograms."
    for slot, value in {"heading": "Broldran 41 > Ratings", "chunk": line, "focus": line}.items():
        template = template.replace("{{ " + slot + " }}", value)
    assert list(json.loads(_ask(model, tokenizer, template.strip()))) == ["evidence", "question", "answer"]


def test_base_admits_what_it_does_not_know(loaded: tuple[Any, Any, str]) -> None:
    model, tokenizer, name = loaded
    if name != "base":
        pytest.skip("only the base is asked without a text")
    assert _ask(model, tokenizer, "Who designed the Brolmat 41?") == "I do not know."


def test_cards_state_recipe_and_skill() -> None:
    for name in ("teacher", "base"):
        card = (MODELS / name / "README.md").read_text(encoding="utf-8")
        assert "## Training" in card
        assert "## Measured" in card


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_through_every_phase(tmp_path: Path) -> None:
    """A step or two of each phase, in a process of its own, as a user would start it."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import train_models as t; from pathlib import Path\n"
    script += "t.build('teacher', Path(sys.argv[2]), share=0.0002)"
    argv = [sys.executable, "-W", "error", "-c", script, str(SANDBOX), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for name, last in (("base", "settling"), ("teacher", "teacher")):
        record = json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8"))
        assert [phase["name"] for phase in record["phases"]][:2] == ["trunk", "joint"]
        assert record["phases"][-1]["name"] == last
        shipped = json.loads((MODELS / name / "training.json").read_text(encoding="utf-8"))
        assert [phase["name"] for phase in record["phases"]] == [phase["name"] for phase in shipped["phases"]]
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.config.vocab_size == transformers.AutoConfig.from_pretrained(MODELS / name).vocab_size
