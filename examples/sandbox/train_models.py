"""Train the sandbox's two language models from scratch, on a CPU, from the grammar in `world.py` alone.

    python examples/sandbox/train_models.py build      # tokenizer, trunk, teacher, base, measurements, model cards
    python examples/sandbox/train_models.py measure    # measure the models that are there, rewrite their cards

One model grows through three phases. The trunk learns everything at a constant rate; the teacher is the trunk decayed
on the recipes' prompts (warm-up, stable, decay: arXiv 2404.06395); the student base is the teacher taught to read and
talk in the student's forms and to know one memorised world by heart.
The prompts are rendered from the very template files that the product uses. No name of a handbook is ever seen: every
machine here is drawn from `Side.TRAINING`, and measured on `Side.GENERAL`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

# Page faults of buffers handed back to the kernel at every step cost up to half of the time: ask glibc to keep them.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_TOP_PAD_": "268435456",
    "TOKENIZERS_PARALLELISM": "false",
}
if __name__ == "__main__" and any(name not in os.environ for name in _MALLOC):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**_MALLOC, **os.environ})  # noqa: S606

import torch  # noqa: E402
from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parent))
import world  # noqa: E402
from world import Machine, Names, Section, Side  # noqa: E402

HERE = Path(__file__).parent
VOCABULARY = 1636
CONTEXT = 512
STEP_TOKENS = 4096
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' }}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{- '\\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


# ------------------------------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True)
class Example:
    """One training row: a talk and the answer to learn, then more turns (asked, answered) about the same passage.

    With no prompt, the answer is a text to learn whole.
    """

    task: str
    prompt: tuple[dict[str, str], ...]
    answer: str
    more: tuple[tuple[str, str], ...] = ()


_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - a prompt is no HTML
)


def render(template: str, **values: str) -> tuple[dict[str, str], ...]:
    """Return the one user message that the template `recipe/name` gives."""
    text = _TEMPLATES.get_template(f"{template}.v1.en.jinja").render(**values)
    return ({"role": "user", "content": text},)


class Source:
    """Makes examples about machines that are new each time, all names from one side of the language."""

    def __init__(self, seed: str, side: Side) -> None:
        self.rng = Random(seed)
        self.side = side
        self._names = Names(self.rng, side)
        self._made = 0
        self.memorised = world.memorised_world()

    def machine(self) -> Machine:
        """Return a new machine."""
        self._made += 1
        if self._made % 5000 == 0:  # names may come again, or the drawer would fill up and slow down
            self._names = Names(self.rng, self.side)
        return world.make_machine(self.rng, self._names)

    def stranger(self) -> str:
        """Return a machine's name that belongs to nothing."""
        return self._names.machine()

    def value(self, key: str) -> str:
        """Return a value that the attribute `key` could have."""
        return world.BY_KEY[key].draw(self.rng, self._names)


def _section(source: Source) -> tuple[Machine, Section]:
    machine = source.machine()
    section = source.rng.choice(world.write_sections(source.rng, machine))
    # The product may cut a section in two: some passages here are parts of one.
    if len(section.sentences) > 2 and source.rng.random() < 0.25:
        cut = source.rng.randint(1, len(section.sentences) - 1)
        parts = (section.sentences[:cut], section.sentences[cut:])
        section = Section(section.heading, source.rng.choice(parts))
    return machine, section


def grounded(source: Source) -> Example:
    """Question, answer and evidence for one sentence of a passage; "none" for a sentence without a fact."""
    rng = source.rng
    while True:
        machine, section = _section(source)
        focus = rng.choice(section.sentences)
        if focus.attribute is not None or rng.random() < 0.5:
            break
    template = rng.choice(("grounded_qa/direct", "grounded_qa/quoted"))
    prompt = render(template, heading=section.heading, chunk=section.text, focus=focus.text)
    if focus.attribute is None:
        reply = {"evidence": "none", "question": "none", "answer": "none"}
    else:
        question = world.ask(rng, machine.name, focus.attribute, gold=False)
        reply = {"evidence": focus.text, "question": question, "answer": machine.facts[focus.attribute]}
    return Example("grounded", prompt, compact(reply))


def compact(reply: dict[str, str]) -> str:
    """Return `reply` as JSON without spaces."""
    return json.dumps(reply, ensure_ascii=False, separators=(",", ":"))


def _stated(section: Section) -> dict[str, str]:
    return {s.attribute: s.text for s in section.sentences if s.attribute is not None}


def _absent(source: Source, machine: Machine, section: Section) -> tuple[str, str]:
    """Return the (name, attribute) of a question that the section does not answer."""
    rng, stated = source.rng, _stated(section)
    missing = [a.key for a in world.ATTRIBUTES if a.key not in stated]
    if stated and rng.random() < 0.45:
        name = source.stranger() if rng.random() < 0.75 else mutate(rng, machine.name)
        return name, rng.choice(list(stated))
    if rng.random() < 0.15:
        return source.stranger(), rng.choice(missing)
    return machine.name, rng.choice(missing)


def _question(source: Source, machine: Machine, section: Section, *, gold: bool = False) -> tuple[str, str]:
    """Return a question on a section, and its answer or that the text does not say."""
    rng = source.rng
    stated = _stated(section)
    if stated and rng.random() < 0.65:
        name, key = machine.name, rng.choice(list(stated))
        reply = machine.facts[key]
    else:
        name, key = _absent(source, machine, section)
        reply = world.NOT_STATED
    return world.ask(rng, name, key, gold=gold), reply


def answer(source: Source) -> Example:
    """Answer from a passage, or say that it does not say."""
    machine, section = _section(source)
    question, reply = _question(source, machine, section)
    prompt = render("answer/open_book", heading=section.heading, chunk=section.text, question=question)
    return Example("answer" if reply != world.NOT_STATED else "answer_absent", prompt, reply)


def _passage(source: Source) -> tuple[Machine, Section]:
    """Return a section, or all sections of a handbook as one: the more is stated, the more there is to search."""
    if source.rng.random() < 0.5:
        return _stating(source)
    machine = source.machine()
    sentences = [s for section in world.write_sections(source.rng, machine) for s in section.sentences]
    return machine, Section(machine.name, tuple(sentences))


def answer_drill(source: Source) -> Example:
    """Several questions on one passage: finding the sentence is the hard part, and each turn practises it again."""
    rng = source.rng
    machine, section = _passage(source)
    if rng.random() < 0.3:  # the student's form, with the wordings it has to know
        turns = [_question(source, machine, section, gold=rng.random() < 0.5) for _ in range(6)]
        text = world.read_prompt(section.heading, section.text, turns[0][0])
        more = tuple(turns[1:])
        return Example("answer_drill", ({"role": "user", "content": text},), turns[0][1], more)
    turns = [_question(source, machine, section) for _ in range(6)]
    prompt = render("answer/open_book", heading=section.heading, chunk=section.text, question=turns[0][0])
    return Example("answer_drill", prompt, turns[0][1], tuple((f"Question: {q}", reply) for q, reply in turns[1:]))


def mutate(rng: Random, value: str) -> str:
    """Return `value` with the kind of slip a small model makes when it copies: a digit or a syllable wrong."""
    while True:
        digits = [i for i, c in enumerate(value) if c.isdigit()]
        if digits and (rng.random() < 0.5 or not any(c.isupper() for c in value)):
            i = rng.choice(digits)
            kind = rng.random()
            digit = rng.choice("0123456789")
            if kind < 0.6:
                new = value[:i] + digit + value[i + 1 :]
            elif kind < 0.75:
                new = value[:i] + value[i + 1 :]
            elif kind < 0.9:
                new = value[:i] + digit + value[i:]
            else:
                j = rng.choice(digits)
                letters = list(value)
                letters[i], letters[j] = letters[j], letters[i]
                new = "".join(letters)
        else:
            words = value.split(" ")
            w = rng.randrange(len(words))
            word = words[w]
            if len(word) < 4:
                continue
            i = rng.randrange(len(word) - 1)
            piece = rng.choice("bdfgklmnprstvz") + rng.choice("aeiou")
            kind = rng.random()
            if kind < 0.6:
                changed = word[:i] + piece + word[i + 2 :]
            elif kind < 0.8:
                changed = word[:i] + word[i + 2 :]
            else:
                changed = word[:i] + piece + word[i:]
            words[w] = changed.lower().capitalize() if word[0].isupper() else changed.lower()
            new = " ".join(words)
        if new != value and new.strip():
            return new


@dataclass(frozen=True)
class _Case:
    """One answer to be judged."""

    question: str
    answer: str
    reason: str
    verdict: str

    @property
    def reply(self) -> str:
        return compact({"reason": self.reason, "verdict": self.verdict})


def _case(source: Source, machine: Machine, section: Section) -> _Case:
    """Return a right answer, or a wrong one of the kinds that the teacher itself and careless people make."""
    rng, stated = source.rng, _stated(section)
    key = rng.choice(list(stated))
    name, reply, reason = machine.name, machine.facts[key], stated[key]
    kind = rng.random()
    if kind < 0.5:
        pass
    elif kind < 0.67:
        reply = mutate(rng, reply)
    elif kind < 0.74:
        reply = source.value(key)
    elif kind < 0.80:
        others = [machine.facts[k] for k in stated if k != key] or [source.value(rng.choice(world.ATTRIBUTES).key)]
        reply = rng.choice(others)
    elif kind < 0.83:
        name, reason = mutate(rng, name), "none"
    elif kind < 0.89:
        name, reason = source.stranger(), "none"
    else:
        reply = reply if rng.random() < 0.7 else source.value(key)
        key = rng.choice([a.key for a in world.ATTRIBUTES if a.key not in stated])
        reason = "none"
    verdict = "yes" if reason != "none" and reply == machine.facts[key] else "no"
    return _Case(world.ask(rng, name, key, gold=False), reply, reason, verdict)


def _stating(source: Source) -> tuple[Machine, Section]:
    while True:
        machine, section = _section(source)
        if _stated(section):
            return machine, section


def judge(source: Source) -> Example:
    """Judge an answer: the deciding sentence first, then yes or no."""
    machine, section = _stating(source)
    case = _case(source, machine, section)
    values = {"heading": section.heading, "chunk": section.text, "question": case.question, "answer": case.answer}
    return Example(f"judge_{case.verdict}", render("judge/support", **values), case.reply)


def judge_drill(source: Source) -> Example:
    """Several answers to judge on one passage."""
    machine, section = _passage(source)
    cases = [_case(source, machine, section) for _ in range(4)]
    first = {"question": cases[0].question, "answer": cases[0].answer}
    prompt = render("judge/support", heading=section.heading, chunk=section.text, **first)
    more = tuple((f"Question: {case.question}\n\nAnswer: {case.answer}", case.reply) for case in cases[1:])
    return Example("judge_drill", prompt, cases[0].reply, more)


def paraphrase(source: Source) -> Example:
    """Say one sentence another way, with the machine's name."""
    rng = source.rng
    machine, section = _stating(source)
    stated = _stated(section)
    key = rng.choice(list(stated))
    other = world.state(rng, machine, key, but=_by_name(machine, key, stated[key]))
    return Example("paraphrase", render("paraphrase/plain", heading=section.heading, sentence=stated[key]), other)


def _by_name(machine: Machine, key: str, sentence: str) -> str:
    """Return the sentence with the machine's name where it says "it" or "the machine"."""
    value, full = machine.facts[key], f"the {machine.name}"
    for form in world.BY_KEY[key].statements:
        named = form.format(S=full[0].upper() + full[1:], s=full, v=value)
        for subject in ("the machine", "it"):
            if sentence in (named, form.format(S=subject.capitalize(), s="the machine", v=value)):
                return named
    raise ValueError(f"no statement of {key} reads {sentence!r}")


def _whole(source: Source, machine: Machine) -> tuple[str, str]:
    """Return a heading and the whole handbook of the machine, in one of the shapes the product may pass it in."""
    rng = source.rng
    sections = world.write_sections(rng, machine)
    heading = rng.choice((machine.name, rng.choice(sections).heading))
    shape = rng.random()
    if shape < 0.4:
        return heading, world.markdown(sections).strip()
    return heading, ("\n\n" if shape < 0.8 else " ").join(section.text for section in sections)


def missing(source: Source) -> Example:
    """Ask about the machine what its handbook does not say."""
    rng = source.rng
    machine = source.machine()
    heading, text = _whole(source, machine)
    key = rng.choice([a.key for a in world.ATTRIBUTES if a.key not in machine.facts])
    question = world.ask(rng, machine.name, key, gold=False)
    return Example("missing", render("unanswerable/missing", heading=heading, chunk=text), question)


def unknown(source: Source) -> Example:
    """Ask about a machine that does not exist."""
    rng = source.rng
    heading, text = _whole(source, source.machine())
    question = world.ask(rng, source.stranger(), rng.choice(world.ATTRIBUTES).key, gold=False)
    return Example("unknown", render("unanswerable/unknown", heading=heading, chunk=text), question)


def copy(source: Source) -> Example:
    """Repeat a whole passage: the densest practice in copying names that were never seen."""
    _, section = _section(source)
    return Example("copy", ({"role": "user", "content": f"Repeat the text: {section.text}"},), section.text)


def _exchange(item: world.Exchange) -> Example:
    return Example(item.kind, item.messages, item.answers[0])


def reading(source: Source) -> Example:
    """One of the student's reading skills."""
    rng, machine = source.rng, source.machine()
    kind = rng.random()
    if kind < 0.40:
        return _exchange(world.open_book(rng, machine))
    if kind < 0.60:
        return _exchange(world.not_stated(rng, machine, source.stranger()))
    if kind < 0.75:
        return _exchange(world.chat_form(rng, machine))
    return _exchange((world.repeat if kind < 0.88 else world.which_machine)(rng, machine))


def closed_book(source: Source) -> Example:
    """A question without a text: the memorised world answers it, or nothing does."""
    rng = source.rng
    kind = rng.random()
    if kind < 0.66:
        return _exchange(world.closed_book(rng, rng.choice(source.memorised)))
    if kind < 0.84:
        return _exchange(world.abstain_missing(rng, rng.choice(source.memorised)))
    return _exchange(world.abstain_unknown(rng, source.stranger()))


def text(source: Source) -> Example:
    """Plain language: handbooks, sections and single sentences, mostly of the memorised world."""
    rng = source.rng
    machine = rng.choice(source.memorised) if rng.random() < 0.75 else source.machine()
    kind = rng.random()
    if kind < 0.15:
        return Example("text", (), world.markdown(world.write_sections(rng, machine)))
    if kind < 0.5:
        section = rng.choice(world.write_sections(rng, machine))
        return Example("text", (), f"{section.heading}\n\n{section.text}")
    return Example("text", (), world.state(rng, machine, rng.choice(list(machine.facts))))


Task = Callable[[Source], Example]
TEACHER_TASKS: dict[Task, float] = {
    grounded: 0.22,
    answer: 0.08,
    answer_drill: 0.20,
    judge: 0.08,
    judge_drill: 0.20,
    paraphrase: 0.09,
    missing: 0.10,
    unknown: 0.03,
}
READING_TASKS: dict[Task, float] = {reading: 0.35, closed_book: 0.45, text: 0.20}
BASE_TASKS: dict[Task, float] = {reading: 0.20, answer_drill: 0.06, closed_book: 0.62, text: 0.09, copy: 0.03}


def mixture(progress: float) -> dict[Task, float]:
    """Return the trunk's task weights: copying is half of it at the start, and a twentieth once it is learned."""
    dense = max(0.05, 0.5 - 2.0 * progress)
    weights: dict[Task, float] = {copy: dense}
    weights |= {task: weight * 0.55 * (1 - dense) for task, weight in TEACHER_TASKS.items()}
    weights |= {task: weight * 0.45 * (1 - dense) for task, weight in READING_TASKS.items()}
    return weights


# -------------------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of the language.

    Capitalised words and numbers never share a token with the space before them, so that a name is the same tokens in
    a sentence, in JSON and at the start of an answer: copying needs no translation. Numbers are cut into pairs of
    digits: with ten tokens only, the same one comes up too often to find one's place in a number by it.
    """
    source = Source("tokenizer", Side.TRAINING)
    tasks: list[Task] = [grounded, answer, judge, paraphrase, missing, unknown, copy, reading, closed_book, text]
    corpus = []
    for index in range(12000):
        example = tasks[index % len(tasks)](source)
        corpus += [message["content"] for message in example.prompt] + [example.answer, "user\n", "assistant\n"]
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?[a-z]+|[A-Z][a-z]*|[0-9]{1,2}|[\"{}:,]+|\n+| +|[^\sA-Za-z0-9\"{}:,]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Row:
    """Token ids of an example and how much each counts: nothing in a prompt, something in an answer."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> list[Row]:
    """Return the rows of `examples`; those longer than the context are left out.

    A token of an answer of n tokens weighs one over the square root of n: halfway between answers that count the same
    and tokens that count the same, or the short answers would drown in the long quotations. The end of a judgement
    weighs four times that: it is one word after a long quotation.
    """
    pieces: list[str] = []
    for example in examples:
        turns = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in example.prompt)
        pieces += [f"{turns}{START}assistant\n" if example.prompt else "", f"{example.answer}{END}"]
        for asked, answered in example.more:
            pieces += [f"\n{START}user\n{asked}{END}\n{START}assistant\n", f"{answered}{END}"]
    tokens = iter(tokenizer(pieces, add_special_tokens=False)["input_ids"])
    rows = []
    for example in examples:
        ids: list[int] = []
        weights: list[float] = []
        for _ in range(1 + len(example.more)):
            asked_ids, answered_ids = next(tokens), next(tokens)
            learned = [len(answered_ids) ** -0.5] * len(answered_ids)
            if example.task.startswith("judge"):
                learned[-3:] = [4 * weight for weight in learned[-3:]]
            ids += asked_ids + answered_ids
            weights += [0.0] * len(asked_ids) + learned
        if len(ids) <= CONTEXT:
            rows.append(Row(ids, weights))
    return rows


@dataclass(frozen=True)
class Batch:
    """Right-padded ids, and for each the token that comes next and its weight; shape (rows, width) each."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def make_batch(rows: Sequence[Row]) -> Batch:
    """Return one batch of rows that are about equally long."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        weights[index, : len(row.ids) - 1] = torch.tensor(row.weights[1:])
    return Batch(ids, ids.roll(-1, dims=1), weights)


def batches(
    tokenizer: PreTrainedTokenizerFast, source: Source, weights: Callable[[], dict[Task, float]]
) -> Iterator[list[Batch]]:
    """Yield steps: batches of rows of like length, from different corners of a pool, about STEP_TOKENS in all."""
    while True:
        now = weights()
        pool = encode(tokenizer, [t(source) for t in source.rng.choices(list(now), list(now.values()), k=1500)])
        pool.sort(key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if (len(groups[-1]) + 1) * len(row.ids) > STEP_TOKENS // 2:
                groups.append([])
            groups[-1].append(row)
        source.rng.shuffle(groups)
        for left, right in zip(groups[::2], groups[1::2], strict=False):
            yield [make_batch(left), make_batch(right)]


# --------------------------------------------------------------------------------------------------------- training


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a fresh Llama of two million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices, roughly, by five Newton-Schulz steps.

    X <- aX + (bA + cA^2)X with A = XX^T, the coefficients of Muon (Jordan et al., 2024). Shape (n, rows, columns).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon:
    """Momentum orthogonalised by Newton-Schulz, for the matrices of the trunk, one batch per shape.

    In float32 and stacked: on a CPU that is several times faster than torch.optim.Muon's bfloat16, one at a time.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], momentum: float = 0.95, decay: float = 0.01) -> None:
        self._momentum, self._decay = momentum, decay
        shapes = sorted({tuple(p.shape) for p in parameters})
        self._groups = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self._moments = [torch.zeros(len(group), *group[0].shape) for group in self._groups]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, rate: float) -> None:
        """Move every matrix by `rate` times the square root of max(1, rows/columns)."""
        for group, moment in zip(self._groups, self._moments, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            moment.lerp_(gradient, 1 - self._momentum)
            update = orthogonalise(gradient.lerp(moment, self._momentum))
            scale = rate * math.sqrt(max(1.0, update.shape[1] / update.shape[2]))
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self._decay).add_(change, alpha=-scale)
                parameter.grad = None


@dataclass(frozen=True)
class Phase:
    """One stretch of training: its tasks as a function of progress (0 to 1), its tokens, the course of its rate."""

    name: str
    weights: Callable[[float], dict[Task, float]]
    tokens: int
    warm: float
    decay_from: float
    peak: float = 1.0


MUON_RATE = 0.02
ADAM_RATE = 0.004


def rate_at(phase: Phase, progress: float) -> float:
    """Return the factor on both rates: a linear warm-up, then level, then a linear decay to nothing."""
    if progress < phase.warm:
        return phase.peak * progress / phase.warm
    if progress < phase.decay_from:
        return phase.peak
    return phase.peak * max(0.0, (1 - progress) / (1 - phase.decay_from))


@dataclass(frozen=True)
class Spent:
    """What a phase took."""

    name: str
    tokens: int
    seconds: float
    loss: float


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    phase: Phase,
    seed: int,
    watch: Callable[[int], None] = lambda step: None,
) -> Spent:
    """Train `model` in place; loss only on answers, and on the whole of plain texts."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in model.named_parameters() if all(p is not m for m in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    source = Source(f"{phase.name}:{seed}", Side.TRAINING)
    started, seen, recent = time.monotonic(), 0, 0.0
    model.train()
    steps = batches(tokenizer, source, lambda: phase.weights(seen / phase.tokens))
    for step, parts in enumerate(steps, start=1):
        progress = seen / phase.tokens
        learned = sum(float(part.weights.sum()) for part in parts)
        total = 0.0
        for part in parts:
            hidden = model.model(input_ids=part.ids, use_cache=False).last_hidden_state
            keep = part.weights > 0
            losses = functional.cross_entropy(model.lm_head(hidden[keep]), part.targets[keep], reduction="none")
            loss = (losses * part.weights[keep]).sum() / learned
            loss.backward()
            total += float(loss.detach())
        factor = rate_at(phase, progress)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        adam.step()
        adam.zero_grad()
        muon.step(MUON_RATE * factor)
        seen += sum(part.ids.numel() for part in parts)
        recent = total if step == 1 else 0.98 * recent + 0.02 * total
        elapsed = time.monotonic() - started
        if step % 50 == 0:
            done, speed = seen / phase.tokens, seen / elapsed
            print(f"{phase.name} step {step} {done:.1%} loss {recent:.3f} {speed:.0f} tokens/s", flush=True)
        watch(step)
        if seen >= phase.tokens:
            break
    model.eval()
    return Spent(phase.name, seen, time.monotonic() - started, recent)


# -------------------------------------------------------------------------------------------------------- measuring


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


# --------------------------------------------------------------------------------------------------------- building

SEED = 1


def only(weights: dict[Task, float]) -> Callable[[float], dict[Task, float]]:
    """Return a mixture that does not change with progress."""
    return lambda progress: weights


TRUNK = Phase("trunk", mixture, tokens=7_000_000, warm=0.01, decay_from=1.0)
# At the trunk's rate the drills' loss did not move in 1.7 million tokens; at a quarter of it, it fell at once.
TEACHER = Phase(
    "teacher",
    only({copy: 0.03, closed_book: 0.15, **TEACHER_TASKS}),
    tokens=8_000_000,
    warm=0.01,
    decay_from=0.4,
    peak=0.25,
)
BASE = Phase("base", only(BASE_TASKS), tokens=3_000_000, warm=0.02, decay_from=0.2, peak=0.25)


@dataclass(frozen=True)
class Kind:
    """One of the two shipped models: its own phase after the trunk, how it is measured, what its card says of it."""

    phase: Phase
    measures: dict[str, tuple[Task, int]]
    about: str


KINDS = {
    "teacher": Kind(
        TEACHER,
        TEACHER_MEASURES,
        "Writes training data from the sandbox's handbooks: grounded questions as JSON, answers from a passage, "
        "judgements, paraphrases and unanswerable questions, asked with the templates in `examples/sandbox/templates`.",
    ),
    "base": Kind(
        BASE,
        BASE_MEASURES,
        "The student before it has learned a handbook: speaks the language, follows the chat form, reads short texts, "
        "knows the facts of one memorised world by heart and says that it does not know everything else.",
    ),
}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, spent: Sequence[Spent], folder: Path) -> None:
    """Write the model into `folder`, weights in float16; the folder appears complete or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(partial)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.half().save_pretrained(partial)
    # Stored in half the space, but computed with in float32: that is what a loader takes from the configuration.
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    history = {"seed": SEED, "phases": [vars(phase) for phase in spent]}
    (partial / "training.json").write_text(json.dumps(history, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model and tokenizer in `folder`, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def write_card(folder: Path, kind: str) -> None:
    """Measure the model in `folder` and write its README.md."""
    model, tokenizer = load(folder)
    skills = measure(model, tokenizer, KINDS[kind].measures)
    history = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    parameters = sum(p.numel() for p in model.parameters())
    config = model.config
    lines = [
        f"# Sandbox {kind}",
        "",
        KINDS[kind].about,
        "",
        f"A Llama of {parameters:,} parameters (hidden {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads of {config.head_dim}, vocabulary {config.vocab_size:,}, context "
        f"{config.max_position_embeddings}, input and output embeddings tied), trained from scratch in float32 on a "
        "CPU, stored in float16. Licence: Apache-2.0.",
        "",
        "## Training",
        "",
        f"Seed {history['seed']}; every row comes from the grammar in `examples/sandbox/world.py`, none of its names "
        f"can occur in a handbook. Muon for the matrices (rate {MUON_RATE}), AdamW for embeddings and norms (rate "
        f"{ADAM_RATE}); steps of about {STEP_TOKENS:,} tokens, rows of like length, loss on answers only (on the "
        "whole of plain texts). The rate is level through the trunk and falls to nothing in each later phase.",
        *(["", history["note"]] if "note" in history else []),
        "",
        "| phase | tokens | seconds | last loss |",
        "| --- | ---: | ---: | ---: |",
    ]
    for phase in history["phases"]:
        lines.append(f"| {phase['name']} | {phase['tokens']:,} | {phase['seconds']:.0f} | {phase['loss']:.3f} |")
    lines += [
        "",
        "## Measured",
        "",
        "Share of right replies on machines whose names no training row has. Strict: a reply in other words than the "
        "grammar's counts as wrong.",
        "",
        "| skill | kind | n | greedy | temperature 0.7 |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for skill in skills:
        lines.append(f"| {skill.name} | {skill.task} | {skill.count} | {skill.greedy:.1%} | {skill.sampled:.1%} |")
    lines += [
        "",
        "Rebuild: `python examples/sandbox/train_models.py build`. Measure again: the same with `measure`.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def build(out: Path) -> None:
    """Train tokenizer, trunk, teacher and base, and write both models into `out`."""
    tokenizer = train_tokenizer()
    model = new_model(tokenizer, SEED)
    spent = [train(model, tokenizer, TRUNK, SEED)]
    # The base grows out of the teacher: who can copy a name into JSON can copy it into an answer.
    for name, kind in KINDS.items():
        spent.append(train(model, tokenizer, kind.phase, SEED))
        save(model, tokenizer, spent, out / name)


def main(argv: Sequence[str] | None = None) -> None:
    """Build or measure the models from the command line."""
    parser = argparse.ArgumentParser(description="Train and measure the sandbox's models.")
    parser.add_argument("job", choices=("build", "measure"), help="build: train, then measure; measure: only that")
    parser.add_argument("--out", type=Path, default=HERE / "models", help="the folder of the models")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.job == "build":
        build(arguments.out)
    for name in KINDS:
        write_card(arguments.out / name, name)


if __name__ == "__main__":
    main()
