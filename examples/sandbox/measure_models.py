"""How well a sandbox model does its tasks, on machines whose names no training row has.

Owned here: greedy and sampled answers of a local model, what counts as a right reply to a task, and the table of skills
that the model cards show.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import world
from tasks import (
    Example,
    Source,
    Task,
    answer,
    closed_book,
    grounded,
    judge,
    missing,
    paraphrase,
    reading,
    unknown,
)
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from world import Side


@torch.inference_mode()  # type: ignore[untyped-decorator]
def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[tuple[dict[str, str], ...]],
    temperature: float = 0.0,
    limit: int = 120,
) -> list[str]:
    """Return one answer to each talk; greedy at temperature 0."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(prompts)), key=lambda i: sum(len(m["content"]) for m in prompts[i]))
    answers = [""] * len(prompts)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    for at in range(0, len(order), 64):
        chosen = order[at : at + 64]
        texts = [
            tokenizer.apply_chat_template(list(prompts[i]), tokenize=False, add_generation_prompt=True) for i in chosen
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=limit,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )
        for i, row in zip(chosen, out[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[i] = tokenizer.decode(row, skip_special_tokens=True)
    return answers


@functools.cache
def _wordings() -> list[tuple[str, str, str]]:
    found = []
    for attribute in world.ATTRIBUTES:
        for wording in attribute.teacher + attribute.gold:
            before, after = wording.split("{m}")
            found.append((before, after, attribute.key))
    return sorted(found, key=lambda item: -len(item[0]) - len(item[1]))


def read_question(question: str) -> tuple[str, str] | None:
    """Return the (machine's name, attribute) that a question asks for; None if it is no question of the language."""
    for before, after, key in _wordings():
        if question.startswith(before) and question.endswith(after):
            return question[len(before) : len(question) - len(after)], key
    return None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def is_right(example: Example, reply: str) -> bool:
    """Return whether `reply` does what the example's task asks; wordings may differ where the task leaves them free."""
    task = example.task
    if task == "grounded":
        want, got = _object(example.answer), _object(reply)
        same = bool(got.get("evidence") == want["evidence"] and got.get("answer") == want["answer"])
        if want["question"] == "none":
            return same
        return same and read_question(str(got.get("question"))) == read_question(want["question"])
    if task.startswith("judge"):
        return bool(_object(reply).get("verdict") == _object(example.answer)["verdict"])
    prompt = example.prompt[0]["content"]
    if task == "paraphrase":
        return reply in _same(example.answer)
    if task in ("missing", "unknown"):
        asked = read_question(reply)
        if asked is None:
            return False
        name, key = asked
        if task == "unknown":
            return name not in prompt and len(name.split(" ")) == 2
        return name in prompt.split("Text: ")[1].splitlines()[0] and not states(prompt, name, key)
    if task == "which_machine":
        return reply in (example.answer, f"the {example.answer}", f"The {example.answer}")
    return reply == example.answer


def _same(sentence: str) -> set[str]:
    """Return every sentence of the language that says what `sentence` says, by the machine's name."""
    for attribute in world.ATTRIBUTES:
        for form in attribute.statements:
            found = _match(form, sentence)
            if found is not None:
                full, value = found
                forms = (f.format(S=full[0].upper() + full[1:], s=full, v=value) for f in attribute.statements)
                return set(forms)
    return set()


def _match(form: str, sentence: str) -> tuple[str, str] | None:
    """Return the (subject, value) with which `form` gives `sentence`."""
    slots = {"{S}": r"(?P<s>The [A-Z][a-z]+ \d\d)", "{s}": r"(?P<s>the [A-Z][a-z]+ \d\d)", "{v}": r"(?P<v>.+?)"}
    pattern = re.escape(form)
    for slot, group in slots.items():
        pattern = pattern.replace(re.escape(slot), group)
    match = re.fullmatch(pattern, sentence)
    return (f"the {match['s'][4:]}", match["v"]) if match else None


def states(text: str, name: str, key: str) -> bool:
    """Return whether `text` has a sentence that states the attribute `key` of the machine, under any of its names."""
    for form in world.BY_KEY[key].statements:
        for start, inner in ((f"The {name}", f"the {name}"), ("It", "the machine"), ("The machine", "the machine")):
            pattern = re.escape(form.format(S=start, s=inner, v="VALUE")).replace("VALUE", r"[^.\n]+?")
            if re.search(pattern, text):
                return True
    return False


TEACHER_MEASURES: dict[str, tuple[Task, int]] = {
    "grounded question, answer and evidence": (grounded, 300),
    "answer from a passage": (answer, 300),
    "judge an answer": (judge, 300),
    "paraphrase": (paraphrase, 150),
    "ask what is missing": (missing, 100),
    "ask about an unknown machine": (unknown, 100),
}
BASE_MEASURES: dict[str, tuple[Task, int]] = {
    "reading skills": (reading, 300),
    "closed book, memorised world": (closed_book, 300),
}


@dataclass(frozen=True)
class Skill:
    """How often one task of a measurement came out right."""

    name: str
    task: str
    count: int
    greedy: float
    sampled: float


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, measures: dict[str, tuple[Task, int]], seed: int = 0
) -> list[Skill]:
    """Return the skills of a model on machines of `Side.GENERAL`, greedy and at temperature 0.7."""
    skills = []
    for name, (task, count) in measures.items():
        source = Source(f"measure:{name}:{seed}", Side.GENERAL)
        examples = [task(source) for _ in range(count)]
        scores: list[list[bool]] = []
        for temperature in (0.0, 0.7):
            replies = complete(model, tokenizer, [e.prompt for e in examples], temperature)
            scores.append([is_right(e, r) for e, r in zip(examples, replies, strict=True)])
        for kind in sorted({e.task for e in examples}):
            at = [i for i, e in enumerate(examples) if e.task == kind]
            greedy, sampled = (sum(score[i] for i in at) / len(at) for score in scores)
            skills.append(Skill(name, kind, len(at), greedy, sampled))
    return skills
