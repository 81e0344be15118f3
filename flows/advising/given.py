"""What an advice is given: the student, the machine, the data and the goal; read and measured, nothing loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Kind, Request, Split
from flows.data_steps import ingest_notes
from flows.plan import count_documents
from flows.vllm import has_gpu
from generators.recipes import build_requests, find_recipe
from generators.recipes.document import document_text_items
from generators.specs import DocumentsSpec, GenerateSpec
from generators.tokens import load_counter
from generators.withholding import Open
from training.compatibility import adapter_of
from training.footprint import MARGIN, Shape, read_shape, size
from training.machine import free_memory, product_speed

GIB = 2**30
LIBRARIES = 610_000_000
"""Bytes that torch, Transformers, TRL and PEFT take in a training process; seen on Linux with the locked CPU builds."""
CUDA_CONTEXT = 512 * 2**20
"""Bytes that CUDA keeps for itself; taken off where a GPU is only named by its size."""
SENTENCE_TOKENS = 25
"""Tokens of a sentence, where a text is only named by its length; English prose has 15 to 25 words a sentence."""
TURN_TOKENS = 10
"""Tokens that a chat template puts around a question and its answer; ChatML takes about so many."""


class Goal(StrEnum):
    """What the student shall be able to do."""

    KNOWLEDGE = "knowledge"
    """Answer from what the documents say, terms of the field included."""
    BEHAVIOUR = "behaviour"
    """Follow instructions, a format or a style."""
    PREFERENCE = "preference"
    """The same, and give answers that are also liked, safe and honest."""
    CLASSIFICATION = "classification"
    """Say which of a few labels fits."""
    TASKS = "tasks"
    """One of many tasks on one base, plugged in and out."""


@dataclass(frozen=True)
class Student:
    """An ordinary model directory, by its config.json and the heads of its safetensors."""

    path: Path
    shape: Shape
    positions: int | None
    """Longest sequence that it knows; None where it does not say."""

    @property
    def line(self) -> str:
        """The figures in words."""
        known = f", {self.positions:,} positions" if self.positions else ""
        return f"{self.path}: {self.shape.parameters:,} parameters in {self.shape.layers} layers{known}"


def read_student(path: Path) -> Student:
    """Read a model directory.

    Raises:
        ConfigError: there is none, or it carries an adapter that can't be merged.
        TrainingError: its files do not tell its size.
    """
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"no model directory at {path} (it has no config.json)",
            valid="a directory with config.json, tokenizer.json and safetensors; a name on a hub is not one",
            next_step=f"download it first, such as `hf download {path} --local-dir DIR`; "
            "where there is no access to the weights, examples in the prompt are all there is",
        )
    carried = adapter_of(path)
    if carried is not None:
        raise ConfigError(
            f"{path} carries an adapter of method {carried.name}, which only the same method can train on",
            valid="an ordinary model",
            next_step=f"name its base, {path / 'base'}, or go on with the same settings of {carried.name}",
        )
    shape = read_shape(path)
    config = json.loads((path / "config.json").read_text("utf-8"))
    config = config.get("text_config") or config
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    return Student(path, shape, positions if isinstance(positions, int) else None)


def chunk_tokens_for(max_length: int) -> int:
    """Return the longest chunk that has room for its headings in a row of `max_length` tokens; at most the default."""
    default = int(DocumentsSpec.model_fields["chunk_tokens"].default)
    return max(16, min(default, max_length // 2))


@dataclass(frozen=True)
class Machine:
    """What a training may take."""

    gpu: bool
    room: int
    """Bytes that are free for it: of the GPU's memory, or without one of the machine's."""
    host: int | None
    """Bytes of main memory that are free; None where nothing is known of them."""
    speed: float | None
    """Floating-point operations per second of a large product; None where nothing is known."""
    line: str

    @property
    def safe(self) -> int:
        """Bytes that a prediction may have, so that it fits even where it is off."""
        return int(self.room / MARGIN)


def this_machine(speed: float | None = None) -> Machine:
    """Measure this machine as `tutelage check` and a stage's preflight do; `speed` replaces the measured one."""
    host = free_memory()
    if has_gpu():
        # Imported here: it takes torch, and a machine without a GPU has no need of that.
        from training.gpu import gpu_memory, gpu_speed

        room = gpu_memory()
        if room is not None:
            speed = gpu_speed() if speed is None else speed
            words = f"this one: a GPU with {size(room)} free, {size(host)} of main memory free, {_pace(speed)}"
            return Machine(True, room, host, speed, words)
    unused = ", and a GPU that this torch can't use" if has_gpu() else ", no GPU"
    speed = product_speed() if speed is None else speed
    return Machine(False, host, host, speed, f"this one: {size(host)} of memory free{unused}, {_pace(speed)}")


def named_machine(gpu_gib: float | None, cpu_gib: float | None, speed: float | None) -> Machine:
    """Return a machine that is named by its memory, in GiB; without `speed` no time is told.

    Raises:
        ConfigError: neither memory is given.
    """
    host = None if cpu_gib is None else int(cpu_gib * GIB)
    if gpu_gib is not None:
        room = max(0, int(gpu_gib * GIB) - CUDA_CONTEXT)
        beside = "main memory not told" if host is None else f"{size(host)} of main memory"
        words = f"as named: a GPU with {size(room)} beside CUDA's own, {beside}, {_pace(speed)}"
        return Machine(True, room, host, speed, words)
    if host is None:
        raise ConfigError("a machine is named by its memory", valid="--gpu-gib N, --cpu-gib N or both")
    return Machine(False, host, host, speed, f"as named: {size(host)} of memory, no GPU, {_pace(speed)}")


def _pace(speed: float | None) -> str:
    return "speed not told (--tflops)" if speed is None else f"{speed / 1e12:,.3g} TFLOP/s"


@dataclass(frozen=True)
class Data:
    """How much there is to learn from. Counts of what the teacher is yet to write are upper bounds."""

    examples: int
    """Questions with answers, or other conversations."""
    example_tokens: int | None
    """Tokens of all examples together; None where nothing is known."""
    text_rows: int
    """Texts for continued pretraining."""
    text_tokens: int
    """Tokens of these."""
    lines: tuple[str, ...]
    """What was counted, and what was assumed."""
    documents: Path | None = None


def documents_data(documents: Path, student: Path, chunk_tokens: int) -> Data:
    """Count a folder as a run would read it, and what its default recipes ask about.

    Raises:
        ConfigError: there is nothing at this path, or no tokenizer to count with.
        DocumentError: no document can be used.
        DataError: all that was read is withheld.
    """
    if not documents.exists():
        raise ConfigError(
            f"no documents at {documents}", valid="a file or a folder", next_step="correct --documents, or leave it out"
        )
    count = load_counter(student)
    counted = count_documents(DocumentsSpec(paths=(documents,), chunk_tokens=chunk_tokens), count)
    notes = tuple(ingest_notes(counted.read, counted.seen))
    if not counted.seen.chunks:
        raise DataError(
            f"no text to learn in {documents}" + "".join(f"; {note}" for note in notes),
            valid="documents as in docs/documents.md",
            next_step="name a folder with text",
        )
    asked = _asked(counted.seen, count)
    examples, paraphrases = asked[Kind.MESSAGES], asked[Kind.TEXT]
    sentences = sorted({request.origin["focus"] for request in examples + paraphrases if "focus" in request.origin})
    sentence = sum(map(count, sentences)) / max(1, len(sentences))
    texts = document_text_items(counted.seen.documents, counted.seen.chunks)
    text_tokens = sum(count(str(item.payload["text"])) for item in texts) + round(sentence * len(paraphrases))
    lines = (
        counted.line,
        *notes,
        f"at most {len(examples):,} examples: what the default recipes ask, on {len(sentences):,} different sentences "
        "that carry a fact; the checks will reject some, a recipe's `target` asks for more",
        f"{text_tokens:,} tokens of text: the chunks and {len(paraphrases):,} paraphrases",
        f"taken for granted: a question and its answer have two sentences' tokens, of {sentence:.0f} each here",
    )
    return Data(
        examples=len(examples),
        example_tokens=round(len(examples) * (2 * sentence + TURN_TOKENS)),
        text_rows=len(texts) + len(paraphrases),
        text_tokens=text_tokens,
        lines=lines,
        documents=documents,
    )


def _asked(seen: Open, count: Callable[[str], int]) -> dict[Kind, list[Request]]:
    """Return the requests of the default recipes whose items a stage would train on, by the kind of these."""
    found: dict[Kind, list[Request]] = {Kind.MESSAGES: [], Kind.TEXT: []}
    spec = GenerateSpec()
    for recipe in spec.recipes:
        requests = build_requests(
            recipe,
            seen.documents,
            seen.chunks,
            teacher_fingerprint="",  # nobody is asked
            count_tokens=count,
            context_tokens=spec.context_tokens,
        )
        found[find_recipe(recipe.recipe).kind] += [
            request for request in requests if request.origin["split"] == Split.TRAIN.value
        ]
    return found


def counted_data(examples: int | None, tokens: int | None, chunk_tokens: int) -> Data:
    """Return data that is named by its numbers: `tokens` of the examples or, without them, of the documents.

    Raises:
        ConfigError: neither is given.
    """
    if examples is not None:
        known = f"{tokens:,} tokens" if tokens is not None else "taken as `max_length` tokens each"
        return Data(examples, tokens, 0, 0, (f"{examples:,} examples, {known}",))
    if tokens is None:
        raise ConfigError("nothing to learn from", valid="--documents PATH, --examples N or --tokens N")
    sentences = max(1, tokens // SENTENCE_TOKENS)
    lines = (
        f"{tokens:,} tokens of documents; taken for granted: {SENTENCE_TOKENS} a sentence, an example on each, "
        "of two sentences' tokens, and a paraphrase of each",
    )
    return Data(
        examples=sentences,
        example_tokens=sentences * (2 * SENTENCE_TOKENS + TURN_TOKENS),
        text_rows=sentences + math.ceil(tokens / chunk_tokens),
        text_tokens=2 * tokens,
        lines=lines,
    )
