"""A small fictional world: machines that never existed, and the handbooks written about them.

The file owns the sandbox's language (names, attributes, sentence forms, question wordings) and writes worlds in it:

    python examples/sandbox/world.py --seed 7 --out DIR

    handbook/*.md       one document per machine, several sections each: what the product is to learn
    gold.jsonl          closed-book questions on the handbook, in wordings the teacher never writes
    unanswerable.jsonl  questions the handbook does not answer: known machines and machines nobody has heard of
    general.jsonl       reading skills the student base has and must keep, on machines of another world
    replay.jsonl        general training rows to mix into every stage, on machines of yet other worlds
    facts.jsonl         the truth, for measuring only; no step of the product reads it

The same seed gives the same bytes. Every proper name falls on one side of the language by a hash of its spelling:
a handbook of any seed draws only from `Side.HANDBOOK`, general.jsonl only from `Side.GENERAL`, and everything a model
was ever trained on only from `Side.TRAINING`. That the models never saw a handbook's names is so by construction.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

SHIPPED_SEED = 1
DOCUMENTS = 60
GOLD_QUESTIONS = 300
UNANSWERABLE_QUESTIONS = 120
GENERAL_QUESTIONS = 400
MEMORISED_MACHINES = 60
UNKNOWN = "I do not know."
NOT_STATED = "The text does not say."

# The memorised world is part of the student base: its seed is a constant of the language, not a choice of the user.
_MEMORISED_SEED = "memorised-1"


class Side(StrEnum):
    """Who may use a proper name."""

    HANDBOOK = "handbook"
    """Handbooks of every seed; no model has been trained on it."""
    GENERAL = "general"
    """The general ability suite; no model has been trained on it."""
    TRAINING = "training"
    """Everything the shipped models were trained on, and the replay rows."""


class Group(StrEnum):
    """The section of a handbook in which an attribute is stated."""

    INTRODUCTION = "introduction"
    ORIGIN = "origin"
    RATINGS = "ratings"
    CARE = "care"
    PAPERS = "papers"


# ---------------------------------------------------------------------------------------------------------- names

_ONSETS = (
    *("b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r"),
    *("s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "z"),
)
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "l", "r", "n", "s")
STARTS: tuple[str, ...] = tuple(
    (onset + vowel + coda).capitalize() for onset in _ONSETS for vowel in _VOWELS for coda in _CODAS
)
"""How a proper name begins: one syllable."""
ENDINGS: dict[str, tuple[str, ...]] = {
    "machine": (
        *("dex", "rax", "mox", "vix", "tron", "dran", "bor", "gar", "mel", "tul", "vas", "kos", "dim", "zum"),
        *("bant", "lunt", "mado", "ledo", "tora", "vira", "deno", "pano", "moka", "nika", "zara", "guro"),
    ),
    "person": (
        *("man", "ton", "ger", "mer", "vel", "del", "tis", "bus", "mund", "gand", "hart", "bert", "beck", "dock"),
        *("sen", "lund", "dahl", "gren", "berg", "strom", "linna", "tarvi", "dorma", "kesso", "mari", "dotti"),
    ),
    "town": (
        *("by", "wick", "holm", "stad", "ford", "mouth", "field", "burg", "port", "gate", "haven", "dale"),
        *("bridge", "well", "church", "cross", "minster", "combe"),
    ),
    "brand": (
        *("lin", "ral", "xol", "tane", "mide", "zene", "nox", "lube", "cryl", "phor", "gel", "fluid", "tex", "plast"),
        *("zol", "dine", "pril", "quat"),
    ),
}
"""How a proper name of each sort ends."""


def side_of(name: str) -> Side:
    """Return the only side on which the proper name `name` may occur (a hash of its letters, stable for ever)."""
    byte = hashlib.sha256(name.lower().encode()).digest()[0]
    if byte < 64:
        return Side.HANDBOOK
    return Side.GENERAL if byte < 96 else Side.TRAINING


class Names:
    """Draws proper names of one side, never the same one twice."""

    def __init__(self, rng: Random, side: Side) -> None:
        self._rng = rng
        self._side = side
        self._used: set[str] = set()

    def word(self, ending: str) -> str:
        """Return a new capitalised name, such as Velmoka, that ends the way names of its sort do."""
        while True:
            name = self._rng.choice(STARTS) + self._rng.choice(ENDINGS[ending])
            if name not in self._used and side_of(name) is self._side:
                self._used.add(name)
                return name

    def machine(self) -> str:
        """Return a machine's name: a word and a two-digit number."""
        return f"{self.word('machine')} {self._rng.randint(11, 99)}"

    def person(self) -> str:
        """Return a person's first and last name."""
        return f"{self.word('person')} {self.word('person')}"

    def town(self) -> str:
        """Return a town's name."""
        return self.word("town")

    def brand(self) -> str:
        """Return a trade name."""
        return self.word("brand")


# ----------------------------------------------------------------------------------------------------- attributes

KIND_FIRST = ("rotary", "double", "standing", "tilting", "twin", "sealed", "floating", "chain", "belt", "field")
KIND_SECOND = ("press", "kiln", "dryer", "loom", "mill", "pump", "crane", "lathe", "sifter", "winch", "boiler", "saw")

Draw = Callable[[Random, Names], str]


def _kind(rng: Random, names: Names) -> str:
    return f"{rng.choice(KIND_FIRST)} {rng.choice(KIND_SECOND)}"


_CODE_LETTERS = "ABCDEFGHKLMNPRSTVWXZ"


def _code(rng: Random, names: Names) -> str:
    return f"{rng.choice(_CODE_LETTERS)}-{rng.randint(100, 999)}"


def _number(low: int, high: int, unit: str = "", step: int = 1) -> Draw:
    def draw(rng: Random, names: Names) -> str:
        return f"{rng.randrange(low, high, step)} {unit}".strip()

    return draw


@dataclass(frozen=True)
class Attribute:
    """One thing a handbook may say about a machine, and every way the language has to say or ask it.

    In `statements`, {S} and {s} are the machine as subject and as object ("The Veltrano 40", "it"); {v} is the value.
    In questions, {m} is the machine's name. `teacher` and `gold` wordings are disjoint: the teacher never learned to
    write the latter.
    """

    key: str
    group: Group
    draw: Draw
    statements: tuple[str, ...]
    teacher: tuple[str, ...]
    gold: tuple[str, ...]


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "kind",
        Group.INTRODUCTION,
        _kind,
        (
            "{S} is a {v}.",
            "{S} was built to serve as a {v}.",
            "In the catalogue {s} is listed as a {v}.",
            "By trade {s} is a {v}.",
            "{S} earns its keep as a {v}.",
            "Most people know {s} as a {v}.",
        ),
        (
            "What kind of machine is the {m}?",
            "What is the {m}?",
            "What sort of machine is the {m}?",
            "As what is the {m} listed?",
        ),
        (
            "Which type of equipment would you call the {m}?",
            "The {m} belongs to which class of machine?",
            "If I order a {m}, what do I get?",
        ),
    ),
    Attribute(
        "designer",
        Group.ORIGIN,
        lambda rng, names: names.person(),
        (
            "{S} was designed by {v}.",
            "{v} designed {s}.",
            "{v} drew the plans for {s}.",
            "The designer of {s} is {v}.",
            "{S} comes from the drawing board of {v}.",
            "It was {v} who designed {s}.",
        ),
        (
            "Who designed the {m}?",
            "Who is the designer of the {m}?",
            "Who drew the plans for the {m}?",
            "By whom was the {m} designed?",
        ),
        (
            "Whose design is the {m}?",
            "Name the person who thought up the {m}.",
            "Which engineer created the {m}?",
        ),
    ),
    Attribute(
        "town",
        Group.ORIGIN,
        lambda rng, names: names.town(),
        (
            "{S} is built in {v}.",
            "{S} is made in the town of {v}.",
            "{v} is the town where {s} is built.",
            "The home town of {s} is {v}.",
            "{S} has always been made in {v}.",
            "The people of {v} build {s}.",
        ),
        (
            "Where is the {m} built?",
            "In which town is the {m} made?",
            "What is the home town of the {m}?",
            "Which town does the {m} come from?",
        ),
        (
            "What place produces the {m}?",
            "The {m} is put together in which town?",
            "Where would I travel to see the {m} being made?",
        ),
    ),
    Attribute(
        "year",
        Group.ORIGIN,
        _number(1850, 2050),
        (
            "{S} has been built since {v}.",
            "{S} was introduced in {v}.",
            "The first copy of {s} was sold in {v}.",
            "In {v} {s} came on the market.",
            "{S} went into production in {v}.",
            "The year of introduction of {s} is {v}.",
        ),
        (
            "When was the {m} introduced?",
            "Since when has the {m} been built?",
            "In which year did the {m} come on the market?",
            "When did the {m} go into production?",
        ),
        (
            "How far back does the {m} date?",
            "What is the birth year of the {m}?",
            "The {m} first appeared in what year?",
        ),
    ),
    Attribute(
        "weight",
        Group.RATINGS,
        _number(101, 999, "kilograms"),
        (
            "{S} weighs {v}.",
            "The weight of {s} is {v}.",
            "On the scales {s} comes to {v}.",
            "{S} has a weight of {v}.",
            "Ready for transport, {s} weighs {v}.",
            "With a weight of {v}, {s} needs a firm floor.",
        ),
        (
            "How much does the {m} weigh?",
            "What is the weight of the {m}?",
            "What does the {m} weigh?",
            "What weight does the {m} have?",
        ),
        (
            "How heavy is the {m}?",
            "What is the mass of the {m}?",
            "What would the scales show for the {m}?",
        ),
    ),
    Attribute(
        "power",
        Group.RATINGS,
        _number(11, 990, "kilowatts"),
        (
            "{S} draws {v}.",
            "The motor of {s} delivers {v}.",
            "{S} has a motor of {v}.",
            "The rated power of {s} is {v}.",
            "At full load {s} takes {v}.",
            "{S} is driven by a motor of {v}.",
        ),
        (
            "What is the rated power of the {m}?",
            "How much does the motor of the {m} deliver?",
            "How much power does the {m} draw?",
            "What does the {m} take at full load?",
        ),
        (
            "How strong is the motor of the {m}?",
            "How many kilowatts is the {m} rated for?",
            "What load does the {m} put on the mains?",
        ),
    ),
    Attribute(
        "heat",
        Group.RATINGS,
        _number(41, 880, "degrees"),
        (
            "{S} must not get hotter than {v}.",
            "The temperature limit of {s} is {v}.",
            "Above {v} {s} switches itself off.",
            "Never heat {s} beyond {v}.",
            "{S} can bear heat up to {v}.",
            "The highest temperature allowed for {s} is {v}.",
        ),
        (
            "What is the temperature limit of the {m}?",
            "How hot may the {m} get?",
            "Above what temperature does the {m} switch itself off?",
            "What is the highest temperature allowed for the {m}?",
        ),
        (
            "At how many degrees does the {m} stop?",
            "When is the {m} too hot?",
            "How much heat can the {m} take?",
        ),
    ),
    Attribute(
        "noise",
        Group.RATINGS,
        _number(31, 149, "decibels"),
        (
            "{S} makes a noise of {v}.",
            "The noise of {s} was measured at {v}.",
            "At one metre {s} is heard at {v}.",
            "The noise level of {s} is {v}.",
            "Beside {s} you will hear {v}.",
            "{S} hums along at {v}.",
        ),
        (
            "What is the noise level of the {m}?",
            "How much noise does the {m} make?",
            "At what level was the noise of the {m} measured?",
            "What will you hear beside the {m}?",
        ),
        (
            "How loud is the {m}?",
            "How many decibels come from the {m}?",
            "What sound level should I expect near the {m}?",
        ),
    ),
    Attribute(
        "coolant",
        Group.CARE,
        lambda rng, names: names.brand(),
        (
            "{S} is cooled with {v}.",
            "The coolant of {s} is {v}.",
            "{v} is the coolant for {s}.",
            "Use only {v} to cool {s}.",
            "{S} takes {v} as its coolant.",
            "The cooling loop of {s} is filled with {v}.",
        ),
        (
            "What is the coolant of the {m}?",
            "With what is the {m} cooled?",
            "Which coolant does the {m} take?",
            "What should be used to cool the {m}?",
        ),
        (
            "What keeps the {m} from overheating?",
            "Which liquid runs through the cooling pipes of the {m}?",
            "Name the cooling fluid for the {m}.",
        ),
    ),
    Attribute(
        "grease",
        Group.CARE,
        lambda rng, names: names.brand(),
        (
            "{S} is greased with {v}.",
            "The bearings of {s} want {v} grease.",
            "The grease for {s} is {v}.",
            "Use {v} to grease {s}.",
            "Only {v} grease belongs in {s}.",
            "Pack the bearings of {s} with {v}.",
        ),
        (
            "With what is the {m} greased?",
            "What is the grease for the {m}?",
            "Which grease do the bearings of the {m} want?",
            "What grease belongs in the {m}?",
        ),
        (
            "What do I put on the bearings of the {m}?",
            "How is the {m} lubricated?",
            "Name the lubricant for the {m}.",
        ),
    ),
    Attribute(
        "interval",
        Group.CARE,
        _number(105, 995, "hours", 5),
        (
            "{S} is serviced every {v}.",
            "The service interval of {s} is {v}.",
            "Service {s} after {v} of work.",
            "Every {v} {s} needs a service.",
            "{S} can run for {v} between services.",
            "A service of {s} is due after {v}.",
        ),
        (
            "What is the service interval of the {m}?",
            "How often is the {m} serviced?",
            "After how long is a service of the {m} due?",
            "How long can the {m} run between services?",
        ),
        (
            "How many hours until the {m} has to be looked after?",
            "When should the mechanic see the {m} again?",
            "How long may I go without maintenance on the {m}?",
        ),
    ),
    Attribute(
        "torque",
        Group.CARE,
        _number(11, 690, "newton metres"),
        (
            "Tighten the bolts of {s} to {v}.",
            "The bolts of {s} are tightened to {v}.",
            "The torque for the bolts of {s} is {v}.",
            "{S} has bolts that take a torque of {v}.",
            "Set the wrench to {v} for {s}.",
            "The head bolts of {s} take {v}.",
        ),
        (
            "To what torque are the bolts of the {m} tightened?",
            "What is the torque for the bolts of the {m}?",
            "To what should the wrench be set for the {m}?",
            "What torque do the bolts of the {m} take?",
        ),
        (
            "How tight must the {m} be screwed down?",
            "How firmly do I turn the bolts on the {m}?",
            "How many newton metres go on the bolts of the {m}?",
        ),
    ),
    Attribute(
        "part",
        Group.CARE,
        _code,
        (
            "The filter of {s} is part {v}.",
            "Order part {v} to replace the filter of {s}.",
            "{S} uses the filter {v}.",
            "Part {v} is the filter for {s}.",
            "A new filter for {s} is ordered as {v}.",
            "{S} takes a filter with the number {v}.",
        ),
        (
            "Which filter does the {m} use?",
            "What is the part number of the filter of the {m}?",
            "Which part is the filter for the {m}?",
            "As what is a new filter for the {m} ordered?",
        ),
        (
            "What code is printed on the filter in the {m}?",
            "What do I ask for when the {m} needs a filter?",
            "Which filter fits the {m}?",
        ),
    ),
    Attribute(
        "inspector",
        Group.PAPERS,
        lambda rng, names: names.person(),
        (
            "{S} was approved by {v}.",
            "{v} approved {s}.",
            "The inspector of {s} was {v}.",
            "{v} inspected {s} and signed the papers.",
            "The test papers of {s} carry the name of {v}.",
            "{S} was tested and passed by {v}.",
        ),
        (
            "Who approved the {m}?",
            "Who was the inspector of the {m}?",
            "By whom was the {m} tested and passed?",
            "Whose name do the test papers of the {m} carry?",
        ),
        (
            "Who gave the {m} its licence?",
            "Name the official who checked the {m}.",
            "Which examiner let the {m} through?",
        ),
    ),
    Attribute(
        "warranty",
        Group.PAPERS,
        _number(11, 119, "months"),
        (
            "{S} has a warranty of {v}.",
            "The warranty on {s} lasts {v}.",
            "The maker stands by {s} for {v}.",
            "{S} is under warranty for {v}.",
            "For {v} repairs of {s} are free.",
            "The warranty period of {s} is {v}.",
        ),
        (
            "How long is the warranty on the {m}?",
            "What is the warranty period of the {m}?",
            "For how long is the {m} under warranty?",
            "For how long are repairs of the {m} free?",
        ),
        (
            "How many months of guarantee come with the {m}?",
            "When does the guarantee of the {m} run out?",
            "How long is the {m} guaranteed?",
        ),
    ),
    Attribute(
        "price",
        Group.PAPERS,
        _number(105, 995, "crowns", 5),
        (
            "{S} costs {v}.",
            "The price of {s} is {v}.",
            "{S} is sold for {v}.",
            "A buyer pays {v} for {s}.",
            "The list price of {s} is {v}.",
            "In the shop {s} goes for {v}.",
        ),
        (
            "How much does the {m} cost?",
            "What is the price of the {m}?",
            "For how much is the {m} sold?",
            "What does a buyer pay for the {m}?",
        ),
        (
            "How expensive is the {m}?",
            "How many crowns must I bring for the {m}?",
            "What would the {m} set me back?",
        ),
    ),
)
BY_KEY: dict[str, Attribute] = {attribute.key: attribute for attribute in ATTRIBUTES}

_TITLES: dict[Group, tuple[str, ...]] = {
    Group.INTRODUCTION: ("",),
    Group.ORIGIN: ("Origin", "History", "Background"),
    Group.RATINGS: ("Ratings", "Technical data", "Figures"),
    Group.CARE: ("Maintenance", "Care", "Service"),
    Group.PAPERS: ("Papers", "Delivery", "Records"),
}

# Sentences without a fact: a handbook that only lists facts would not read like one.
_FILLERS: dict[Group, tuple[str, ...]] = {
    Group.INTRODUCTION: (
        "Read this handbook before the first start.",
        "Keep these pages close to the machine.",
        "This handbook is meant for the people who run the machine.",
        "A new hand should work beside an old one for the first week.",
        "Please write in the margin whatever we forgot.",
    ),
    Group.ORIGIN: (
        "The old drawings hang in the hall.",
        "A long line of smaller machines came before.",
        "Many visitors ask about this part of the story.",
        "The first workshop was hardly larger than a barn.",
    ),
    Group.RATINGS: (
        "All figures hold for a warm machine.",
        "Check the plate on the side if in doubt.",
        "Measure twice before you change a setting.",
        "The figures were taken on a dry day.",
    ),
    Group.CARE: (
        "Switch off the mains before you open the hood.",
        "Wipe up every spill at once.",
        "Wear gloves and keep your sleeves tied.",
        "Clean tools save more time than quick hands.",
        "Note each service in the log.",
    ),
    Group.PAPERS: (
        "Keep the papers in a dry place.",
        "The office will gladly send a second copy.",
        "Check the crate before you sign for it.",
        "Please have the papers ready when you call.",
    ),
}


# -------------------------------------------------------------------------------------------------------- machines


@dataclass(frozen=True)
class Machine:
    """A machine's name and what is true of it: attribute key to value."""

    name: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a handbook and the attribute it states; None when it states no fact."""

    text: str
    attribute: str | None


@dataclass(frozen=True)
class Section:
    """One section of a document: the path of its headings and its sentences."""

    heading: str
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The section's body, one paragraph."""
        return " ".join(sentence.text for sentence in self.sentences)


def make_machine(rng: Random, names: Names) -> Machine:
    """Return a new machine with its kind and four or five of the other attributes."""
    others = rng.sample(ATTRIBUTES[1:], rng.choice((4, 5)))
    chosen = {attribute.key for attribute in others} | {"kind"}
    return Machine(names.machine(), {a.key: a.draw(rng, names) for a in ATTRIBUTES if a.key in chosen})


def make_world(seed: str, side: Side, machines: int) -> list[Machine]:
    """Return the machines of a world; the same seed and side give the same ones."""
    rng = Random(f"{side.value}:{seed}")
    names = Names(rng, side)
    return [make_machine(rng, names) for _ in range(machines)]


def memorised_world() -> list[Machine]:
    """Return the machines whose facts the student base knows by heart, which is how it knows what asking means."""
    return make_world(_MEMORISED_SEED, Side.TRAINING, MEMORISED_MACHINES)


def state(rng: Random, machine: Machine, key: str, *, named: bool = True, but: str = "") -> str:
    """Return a sentence that states one fact of `machine`, by its name or as "it"; never the sentence `but`."""
    forms = list(BY_KEY[key].statements)
    rng.shuffle(forms)
    for form in forms:
        subject = f"the {machine.name}" if named else "the machine"
        start = subject if named or rng.random() < 0.3 else "it"
        sentence = form.format(S=start[0].upper() + start[1:], s=subject, v=machine.facts[key])
        if sentence != but:
            return sentence
    raise ValueError(f"no second form for {key}: got {len(forms)}, need at least two")


def write_sections(rng: Random, machine: Machine) -> list[Section]:
    """Return the sections of the handbook of `machine`."""
    sections = []
    for group in Group:
        keys = [key for key in machine.facts if BY_KEY[key].group is group]
        if not keys:
            continue
        rng.shuffle(keys)
        title = rng.choice(_TITLES[group])
        sentences = []
        for index, key in enumerate(keys):
            named = group is Group.INTRODUCTION or rng.random() < (0.7 if index == 0 else 0.3)
            sentences.append(Sentence(state(rng, machine, key, named=named), key))
        # A lone sentence makes a poor section; a long one needs no padding.
        if len(keys) == 1 or (len(keys) == 2 and rng.random() < 0.2):
            filler = Sentence(rng.choice(_FILLERS[group]), None)
            at = len(sentences) if group is Group.INTRODUCTION else rng.randint(0, len(sentences))
            sentences.insert(at, filler)
        sections.append(Section(f"{machine.name} > {title}" if title else machine.name, tuple(sentences)))
    return sections


def markdown(sections: Sequence[Section]) -> str:
    """Return the document: a title, its introduction, then each section under its own heading."""
    name = sections[0].heading
    blocks = [f"# {name}", sections[0].text]
    for section in sections[1:]:
        blocks += [f"## {section.heading.removeprefix(name + ' > ')}", section.text]
    return "\n\n".join(blocks) + "\n"


def ask(rng: Random, name: str, key: str, *, gold: bool) -> str:
    """Return a question for the attribute `key` of the machine called `name`."""
    wordings = BY_KEY[key].gold if gold else BY_KEY[key].teacher
    return rng.choice(wordings).format(m=name)


def accepted(key: str, value: str) -> list[str]:
    """Return the answers that count as right: as stated first, then shorter or longer ways to say the same."""
    answers = [value]
    if value.split(" ")[0].isdigit() and " " in value:
        answers.append(value.split(" ")[0])
    if key == "kind":
        answers += [f"a {value}", f"A {value}"]
    if key == "part":
        answers += [f"part {value}", f"Part {value}"]
    return answers


# ------------------------------------------------------------------------------------------- the student's chat forms


def read_prompt(heading: str, text: str, question: str) -> str:
    """Return the user message that asks the student to answer from a text."""
    return f"Read the text and answer the question.\n\nText: {heading}: {text}\n\nQuestion: {question}"


def repeat_prompt(sentence: str) -> str:
    """Return the user message that asks the student for a sentence word for word."""
    return f"Repeat this sentence: {sentence}"


def name_prompt(sentence: str) -> str:
    """Return the user message that asks the student which machine a sentence is about."""
    return f"Which machine is this sentence about? {sentence}"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True)
class Exchange:
    """One item of general ability: the messages up to the last user turn, and the right last answer."""

    kind: str
    messages: tuple[dict[str, str], ...]
    answers: tuple[str, ...]


def _stated(section: Section) -> list[str]:
    return [sentence.attribute for sentence in section.sentences if sentence.attribute is not None]


def open_book(rng: Random, machine: Machine) -> Exchange:
    """Return a question with the text that answers it."""
    section = rng.choice(write_sections(rng, machine))
    key = rng.choice(_stated(section))
    prompt = read_prompt(section.heading, section.text, ask(rng, machine.name, key, gold=rng.random() < 0.5))
    return Exchange("open_book", (_message("user", prompt),), tuple(accepted(key, machine.facts[key])))


def not_stated(rng: Random, machine: Machine, stranger: str) -> Exchange:
    """Return a question with a text that does not answer it: another attribute, or another machine's name."""
    section = rng.choice(write_sections(rng, machine))
    stated = _stated(section)
    name = machine.name
    if rng.random() < 0.3:
        name, key = stranger, rng.choice(stated)
    else:
        key = rng.choice([attribute.key for attribute in ATTRIBUTES if attribute.key not in stated])
    prompt = read_prompt(section.heading, section.text, ask(rng, name, key, gold=rng.random() < 0.5))
    return Exchange("not_stated", (_message("user", prompt),), (NOT_STATED,))


def repeat(rng: Random, machine: Machine) -> Exchange:
    """Return a sentence to be repeated word for word."""
    sentence = state(rng, machine, rng.choice(list(machine.facts)))
    return Exchange("repeat", (_message("user", repeat_prompt(sentence)),), (sentence,))


def which_machine(rng: Random, machine: Machine) -> Exchange:
    """Return a sentence with the question which machine it is about."""
    sentence = state(rng, machine, rng.choice(list(machine.facts)))
    answers = (machine.name, f"The {machine.name}", f"the {machine.name}")
    return Exchange("which_machine", (_message("user", name_prompt(sentence)),), answers)


def chat_form(rng: Random, machine: Machine) -> Exchange:
    """Return a talk of two turns about one text: the second answer is the one that counts."""
    while True:
        section = rng.choice(write_sections(rng, machine))
        if len(_stated(section)) > 1 or len(machine.facts) < 4:
            break
        machine = machine if rng.random() < 0.8 else Machine(machine.name, dict(list(machine.facts.items())[:3]))
    first, second = rng.choice(_stated(section)), rng.choice(_stated(section))
    opening = read_prompt(section.heading, section.text, ask(rng, machine.name, first, gold=rng.random() < 0.5))
    messages = (
        _message("user", opening),
        _message("assistant", machine.facts[first]),
        _message("user", ask(rng, machine.name, second, gold=rng.random() < 0.5)),
    )
    return Exchange("chat_form", messages, tuple(accepted(second, machine.facts[second])))


def closed_book(rng: Random, machine: Machine) -> Exchange:
    """Return a question without a text, on a machine of the memorised world."""
    key = rng.choice(list(machine.facts))
    question = ask(rng, machine.name, key, gold=rng.random() < 0.5)
    return Exchange("closed_book", (_message("user", question),), (machine.facts[key],))


def abstain_missing(rng: Random, machine: Machine) -> Exchange:
    """Return a question about a machine of the memorised world that nothing in that world answers."""
    key = rng.choice([attribute.key for attribute in ATTRIBUTES if attribute.key not in machine.facts])
    question = ask(rng, machine.name, key, gold=rng.random() < 0.5)
    return Exchange("abstain_missing", (_message("user", question),), (UNKNOWN,))


def abstain_unknown(rng: Random, stranger: str) -> Exchange:
    """Return a question about a machine nobody has heard of."""
    question = ask(rng, stranger, rng.choice(ATTRIBUTES).key, gold=rng.random() < 0.5)
    return Exchange("abstain_unknown", (_message("user", question),), (UNKNOWN,))


# ----------------------------------------------------------------------------------------------------------- files


def _gold(rng: Random, machines: Sequence[Machine]) -> list[dict[str, Any]]:
    facts = [(machine, key) for machine in machines for key in machine.facts]
    rows = []
    for index, (machine, key) in enumerate(sorted(rng.sample(facts, GOLD_QUESTIONS), key=facts.index)):
        rows.append(
            {
                "id": f"gold-{index:04d}",
                "question": ask(rng, machine.name, key, gold=True),
                "answers": accepted(key, machine.facts[key]),
                "document": _file_name(machine),
                "attribute": key,
            }
        )
    return rows


def _unanswerable(rng: Random, machines: Sequence[Machine], names: Names) -> list[dict[str, Any]]:
    rows = []
    for index in range(UNANSWERABLE_QUESTIONS):
        if index % 2 == 0:
            machine = machines[index // 2 % len(machines)]
            key = rng.choice([attribute.key for attribute in ATTRIBUTES if attribute.key not in machine.facts])
            question, kind = ask(rng, machine.name, key, gold=True), "missing"
        else:
            question, kind = ask(rng, names.machine(), rng.choice(ATTRIBUTES).key, gold=True), "unknown"
        rows.append({"id": f"unanswerable-{index:04d}", "question": question, "kind": kind})
    return rows


def _general(seed: int) -> list[dict[str, Any]]:
    rng = Random(f"general:{seed}")
    # A machine for each question: no two questions are alike, and a gate counts every one as independent.
    machines = make_world(f"general-{seed}", Side.GENERAL, GENERAL_QUESTIONS)
    rows = []
    for index, machine in enumerate(machines):
        stranger = machines[(index + 7) % len(machines)].name
        match index % 5:
            case 0:
                item = open_book(rng, machine)
            case 1:
                item = repeat(rng, machine)
            case 2:
                item = not_stated(rng, machine, stranger)
            case 3:
                item = chat_form(rng, machine)
            case _:
                item = which_machine(rng, machine)
        rows.append(
            {
                "id": f"general-{index:04d}",
                "messages": list(item.messages),
                "answers": list(item.answers),
                "kind": item.kind,
            }
        )
    return rows


def _replay(seed: int) -> list[dict[str, Any]]:
    rng = Random(f"replay:{seed}")
    known = memorised_world()
    fresh = make_world(f"replay-{seed}", Side.TRAINING, 200)
    strangers = Names(Random(f"strangers:{seed}"), Side.TRAINING)
    rows: list[dict[str, Any]] = []

    def add(item: Exchange) -> None:
        rows.append({"messages": [*item.messages, _message("assistant", item.answers[0])]})

    for index in range(200):
        machine, old = fresh[index], known[index % len(known)]
        add(open_book(rng, machine))
        add(open_book(rng, fresh[(index + 3) % 200]))
        add(not_stated(rng, machine, fresh[(index + 7) % 200].name))
        add(repeat(rng, machine))
        add(chat_form(rng, machine))
        if index % 2:
            add(which_machine(rng, machine))
        for _ in range(3):
            add(closed_book(rng, old))
        for _ in range(2):
            add(abstain_missing(rng, old))
            add(abstain_unknown(rng, strangers.machine()))
        section = rng.choice(write_sections(rng, old))
        rows.append({"text": f"{section.heading}\n\n{section.text}"})
        rows.append({"text": state(rng, old, rng.choice(list(old.facts)))})
        if index % 2:
            rows.append({"text": markdown(write_sections(rng, machine))})
    rng.shuffle(rows)
    return rows


def _file_name(machine: Machine) -> str:
    return machine.name.lower().replace(" ", "-") + ".md"


def _write(path: Path, text: str) -> None:
    # Written beside and renamed: a reader never sees half a file.
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_world(seed: int, out: Path) -> None:
    """Write the world of `seed` into the folder `out`; the same seed always gives the same bytes."""
    machines = make_world(str(seed), Side.HANDBOOK, DOCUMENTS)
    rng = Random(f"world:{seed}")
    # Strangers must not meet a machine of the handbook: one drawer hands out both, the handbook's first.
    drawer = Random(f"{Side.HANDBOOK.value}:{seed}")
    names = Names(drawer, Side.HANDBOOK)
    for _ in range(DOCUMENTS):
        make_machine(drawer, names)
    handbook = out / "handbook"
    handbook.mkdir(parents=True, exist_ok=True)
    facts = []
    for machine in machines:
        sections = write_sections(rng, machine)
        _write(handbook / _file_name(machine), markdown(sections))
        for section in sections:
            for sentence in section.sentences:
                if sentence.attribute is not None:
                    facts.append(
                        {
                            "machine": machine.name,
                            "attribute": sentence.attribute,
                            "value": machine.facts[sentence.attribute],
                            "document": _file_name(machine),
                            "heading": section.heading,
                            "sentence": sentence.text,
                        }
                    )
    _write_rows(out / "facts.jsonl", facts)
    _write_rows(out / "gold.jsonl", _gold(rng, machines))
    _write_rows(out / "unanswerable.jsonl", _unanswerable(rng, machines, names))
    _write_rows(out / "general.jsonl", _general(seed))
    _write_rows(out / "replay.jsonl", _replay(seed))


def main(argv: Sequence[str] | None = None) -> None:
    """Write a world from the command line."""
    parser = argparse.ArgumentParser(description="Write a fictional world of technical handbooks.")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED, help="the same seed gives the same bytes")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    arguments = parser.parse_args(argv)
    write_world(arguments.seed, arguments.out)
    print(f"wrote the world of seed {arguments.seed} to {arguments.out}")


if __name__ == "__main__":
    main()
