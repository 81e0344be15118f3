"""What the sandbox's models are taught: one function per task, each making one training row from the grammar.

Owned here: the rows (`Example`), where their machines come from (`Source`), every task of the teacher and of the
student base, and the mixtures of the three phases. The teacher's prompts are rendered from the very template files that
the product uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import world
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from world import Machine, Names, Section, Side

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """One training row: a talk and the answer to learn, then more turns (asked, answered) about the same passage.

    With no prompt, the answer is a text to learn whole.
    """

    task: str
    prompt: tuple[dict[str, str], ...]
    answer: str
    more: tuple[tuple[str, str], ...] = ()


@dataclass
class Acquaintance:
    """A machine that a model is getting to know, and how often it was asked about it so far."""

    machine: Machine
    asked: int = 0


ACQUAINTANCES = 25
"""Machines that a model gets to know at a time."""
ALONE = 45
"""So many questions about a machine come in the teacher's wordings only."""
FORGOTTEN = 110
"""After so many a new machine takes its place."""

Task = Callable[["Source"], Example]
Mixture = Mapping[Task, float]

_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - a prompt is no HTML
)


def render(template: str, **values: str) -> tuple[dict[str, str], ...]:
    """Return the one user message that the template `recipe/name` gives."""
    text = _TEMPLATES.get_template(f"{template}.v1.en.jinja").render(**values)
    return ({"role": "user", "content": text},)


def compact(reply: dict[str, str]) -> str:
    """Return `reply` as JSON without spaces."""
    return json.dumps(reply, ensure_ascii=False, separators=(",", ":"))


class Source:
    """Makes examples about machines that are new each time, all names from one side of the language."""

    def __init__(self, seed: str, side: Side) -> None:
        self.rng = Random(seed)
        self.side = side
        self._names = Names(self.rng, side)
        self._made = 0
        self.memorised = world.memorised_world()
        self._acquaintances: list[Acquaintance] = []

    def acquaintance(self) -> Acquaintance:
        """Return one of the machines that the model is getting to know, counted as asked about once more."""
        while len(self._acquaintances) < ACQUAINTANCES:
            self._acquaintances.append(Acquaintance(self.machine()))
        place = self.rng.randrange(ACQUAINTANCES)
        found = self._acquaintances[place]
        found.asked += 1
        if found.asked > FORGOTTEN:
            self._acquaintances[place] = Acquaintance(self.machine())
        return found

    def machine(self) -> Machine:
        """Return a new machine."""
        self._made += 1
        if self._made % 2000 == 0:  # names may come again, or the drawer would fill up and slow down
            self._names = Names(self.rng, self.side)
        return world.make_machine(self.rng, self._names)

    def stranger(self) -> str:
        """Return a machine's name that belongs to nothing."""
        return self._names.machine()

    def value(self, key: str) -> str:
        """Return a value that the attribute `key` could have."""
        return world.BY_KEY[key].draw(self.rng, self._names)


# ----------------------------------------------------------------------------------------------------------- passages


def _section(source: Source) -> tuple[Machine, Section]:
    machine = source.machine()
    section = source.rng.choice(world.write_sections(source.rng, machine))
    # The product may cut a section in two: some passages here are parts of one.
    if len(section.sentences) > 2 and source.rng.random() < 0.25:
        cut = source.rng.randint(1, len(section.sentences) - 1)
        parts = (section.sentences[:cut], section.sentences[cut:])
        section = Section(section.heading, source.rng.choice(parts))
    return machine, section


def _stated(section: Section) -> dict[str, str]:
    return {s.attribute: s.text for s in section.sentences if s.attribute is not None}


def _stating(source: Source) -> tuple[Machine, Section]:
    while True:
        machine, section = _section(source)
        if _stated(section):
            return machine, section


def _passage(source: Source) -> tuple[Machine, Section]:
    """Return all sections of a handbook as one: the more is stated, the more there is to search."""
    machine = source.machine()
    sentences = [s for section in world.write_sections(source.rng, machine) for s in section.sentences]
    return machine, Section(machine.name, tuple(sentences))


def _whole(source: Source, machine: Machine) -> tuple[str, str]:
    """Return a heading and the whole handbook of the machine, in one of the shapes the product may pass it in."""
    rng = source.rng
    sections = world.write_sections(rng, machine)
    heading = rng.choice((machine.name, rng.choice(sections).heading))
    shape = rng.random()
    if shape < 0.4:
        return heading, world.markdown(sections).strip()
    return heading, ("\n\n" if shape < 0.8 else " ").join(section.text for section in sections)


# ------------------------------------------------------------------------------------------------- the teacher's tasks


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
    return Example("grounded", prompt, _grounded_reply(rng, machine, focus))


def _grounded_reply(rng: Random, machine: Machine, focus: world.Sentence) -> str:
    if focus.attribute is None:
        return compact({"evidence": "none", "question": "none", "answer": "none"})
    question = world.ask(rng, machine.name, focus.attribute, gold=False)
    return compact({"evidence": focus.text, "question": question, "answer": machine.facts[focus.attribute]})


def grounded_drill(source: Source) -> Example:
    """A question for each of several sentences of one passage."""
    rng = source.rng
    machine, section = _passage(source)
    chosen = rng.sample(section.sentences, min(4, len(section.sentences)))
    replies = [_grounded_reply(rng, machine, focus) for focus in chosen]
    prompt = render("grounded_qa/direct", heading=section.heading, chunk=section.text, focus=chosen[0].text)
    more = tuple((f"Sentence: {focus.text}", reply) for focus, reply in zip(chosen[1:], replies[1:], strict=True))
    return Example("grounded_drill", prompt, replies[0], more)


def _absent(source: Source, machine: Machine, section: Section) -> tuple[str, str]:
    """Return the (name, attribute) of a question that the section does not answer."""
    rng, stated = source.rng, _stated(section)
    missing = [a.key for a in world.ATTRIBUTES if a.key not in stated]
    if stated and rng.random() < 0.4:
        name = source.stranger() if rng.random() < 0.75 else mutate(rng, machine.name)
        return name, rng.choice(list(stated))
    if rng.random() < 0.15:
        return source.stranger(), rng.choice(missing)
    return machine.name, rng.choice(missing)


def _question(source: Source, machine: Machine, section: Section, *, gold: bool = False) -> tuple[str, str]:
    """Return a question on a section, and its answer or that the text does not say."""
    rng = source.rng
    stated = _stated(section)
    if stated and rng.random() < 0.6:
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


def answer_drill(source: Source) -> Example:
    """Several questions on one passage: finding the sentence is the hard part, and each turn practises it again."""
    machine, section = (_passage if source.rng.random() < 0.5 else _stating)(source)
    turns = [_question(source, machine, section) for _ in range(8)]
    prompt = render("answer/open_book", heading=section.heading, chunk=section.text, question=turns[0][0])
    return Example("answer_drill", prompt, turns[0][1], tuple((f"Question: {q}", reply) for q, reply in turns[1:]))


def mutate(rng: Random, value: str) -> str:
    """Return `value` with the kind of slip a small model makes when it copies: a number or a part of a name wrong."""
    while True:
        words = value.split(" ")
        w = rng.randrange(len(words))
        word = words[w]
        digits = [i for i, c in enumerate(word) if c.isdigit()]
        if digits:
            i = rng.choice(digits)
            kind = rng.random()
            digit = rng.choice("0123456789")
            if kind < 0.8:
                word = word[:i] + digit + word[i + 1 :]
            elif kind < 0.9:
                word = word[:i] + word[i + 1 :]
            else:
                word = word[:i] + digit + word[i:]
        elif word[0].isupper() and len(word) > 3:
            word = _slip_in_name(rng, word)
        elif word in world.KIND_FIRST + world.KIND_SECOND:
            word = rng.choice(world.KIND_FIRST if word in world.KIND_FIRST else world.KIND_SECOND)
        else:  # a unit: it is the number before it that slips
            continue
        new = " ".join([*words[:w], word, *words[w + 1 :]])
        if new != value and word:
            return new


def _slip_in_name(rng: Random, name: str) -> str:
    ending = max((e for group in world.ENDINGS.values() for e in group if name.endswith(e)), key=len, default="")
    if not ending or len(ending) > len(name) - 2:
        i = rng.randrange(1, len(name) - 1)
        return name[:i] + rng.choice("aeiou") + name[i + 1 :]
    if rng.random() < 0.5:
        return rng.choice(world.STARTS) + ending
    group = next(group for group in world.ENDINGS.values() if ending in group)
    return name[: -len(ending)] + rng.choice(group)


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
    name, reply, reason = machine.name, machine.facts[key], machine.facts[key]
    kind = rng.random()
    if kind < 0.45:
        pass
    elif kind < 0.65:
        reply = mutate(rng, reply)
    elif kind < 0.72:
        reply = source.value(key)
    elif kind < 0.79:
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
    verdict = "yes" if reply == reason else "no"
    return _Case(world.ask(rng, name, key, gold=False), reply, reason, verdict)


def judge(source: Source) -> Example:
    """Judge an answer: what the text says first, then yes or no."""
    machine, section = _stating(source)
    case = _case(source, machine, section)
    values = {"heading": section.heading, "chunk": section.text, "question": case.question, "answer": case.answer}
    return Example(f"judge_{case.verdict}", render("judge/support", **values), case.reply)


def judge_drill(source: Source) -> Example:
    """Several answers to judge on one passage."""
    machine, section = (_passage if source.rng.random() < 0.5 else _stating)(source)
    cases = [_case(source, machine, section) for _ in range(6)]
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


# ------------------------------------------------------------------------------------------------- the student's tasks


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
    if kind < 0.32:
        return _exchange(world.open_book(rng, machine))
    if kind < 0.58:
        return _exchange(world.not_stated(rng, machine, source.stranger()))
    if kind < 0.80:
        return _exchange(world.chat_form(rng, machine))
    return _exchange((world.repeat if kind < 0.92 else world.which_machine)(rng, machine))


def reading_drill(source: Source) -> Example:
    """Several questions on one passage, in the student's form and with the wordings it has to know."""
    rng = source.rng
    machine, section = (_passage if rng.random() < 0.5 else _stating)(source)
    turns = [_question(source, machine, section, gold=rng.random() < 0.5) for _ in range(8)]
    text = world.read_prompt(section.heading, section.text, turns[0][0])
    return Example("reading_drill", ({"role": "user", "content": text},), turns[0][1], tuple(turns[1:]))


def closed_book(source: Source) -> Example:
    """A question without a text: the memorised world answers it, or nothing does."""
    rng = source.rng
    kind = rng.random()
    if kind < 0.66:
        return _exchange(world.closed_book(rng, rng.choice(source.memorised)))
    if kind < 0.84:
        return _exchange(world.abstain_missing(rng, rng.choice(source.memorised)))
    return _exchange(world.abstain_unknown(rng, source.stranger()))


def getting_to_know(source: Source) -> Example:
    """A question without a text on a machine that is new: first in the teacher's wordings only, later in all.

    What a student was taught in one wording it shall answer in another. Questions on a world that is known by heart can
    be learned wording by wording and do not teach that; here a new wording is asked when only the others were learned.
    """
    rng, known = source.rng, source.acquaintance()
    machine = known.machine
    gold = known.asked > ALONE and rng.random() < 0.6
    if rng.random() < 0.2:
        key = rng.choice([attribute.key for attribute in world.ATTRIBUTES if attribute.key not in machine.facts])
        reply = world.UNKNOWN
    else:
        key = rng.choice(list(machine.facts))
        reply = machine.facts[key]
    question = world.ask(rng, machine.name, key, gold=gold)
    return Example("getting_to_know", ({"role": "user", "content": question},), reply)


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


# ----------------------------------------------------------------------------------------------------------- mixtures

TEACHER_TASKS: Mixture = {
    copy: 0.03,
    grounded: 0.22,
    grounded_drill: 0.07,
    answer: 0.10,
    answer_drill: 0.17,
    judge: 0.10,
    judge_drill: 0.17,
    paraphrase: 0.07,
    missing: 0.05,
    unknown: 0.02,
}
BASE_TASKS: Mixture = {copy: 0.12, reading: 0.30, reading_drill: 0.16, closed_book: 0.36, text: 0.06}


def copying_first(progress: float) -> Mixture:
    """Return the trunk's weights at `progress` (0 to 1): the teacher's, after much copying at the start."""
    dense = max(0.0, 0.7 - 2.23 * progress)
    weights = {task: weight * (1 - dense) for task, weight in TEACHER_TASKS.items()}
    return {**weights, copy: weights[copy] + dense}


def everything(progress: float) -> Mixture:
    """Return the weights of the joint phase: what both models have to do."""
    base: Mixture = {copy: 0.14, reading: 0.34, reading_drill: 0.24, closed_book: 0.22, text: 0.06}
    tasks = [*TEACHER_TASKS, *(task for task in base if task not in TEACHER_TASKS)]
    return {task: 0.55 * TEACHER_TASKS.get(task, 0.0) + 0.45 * base.get(task, 0.0) for task in tasks}


def studying(progress: float) -> Mixture:
    """Return the base's weights, whatever the progress."""
    return BASE_TASKS


def meeting(progress: float) -> Mixture:
    """Return the weights of the base's phase of new machines: those, and what it can already."""
    return {getting_to_know: 0.40, closed_book: 0.12, reading: 0.28, reading_drill: 0.08, text: 0.04, copy: 0.08}


def practising(progress: float) -> Mixture:
    """Return the teacher's weights: many questions on each passage."""
    return {
        copy: 0.03,
        grounded: 0.19,
        grounded_drill: 0.10,
        answer: 0.08,
        answer_drill: 0.20,
        judge: 0.08,
        judge_drill: 0.18,
        paraphrase: 0.06,
        missing: 0.06,
        unknown: 0.02,
    }


def settling(progress: float) -> Mixture:
    """Return the weights of the base's last phase: new machines, with as much reading."""
    return {
        getting_to_know: 0.28,
        closed_book: 0.14,
        reading: 0.24,
        reading_drill: 0.22,
        text: 0.04,
        copy: 0.08,
    }
