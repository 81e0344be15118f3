"""What a configuration would do, without doing it: documents, chunks, prompts, stages and gates in a few lines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.gates import check_slices, labels_of
from evaluation.suites import load_suite
from flows.config import Config
from flows.data_steps import ingest_notes
from flows.document_parser import document_parser
from flows.labelled import read_texts
from flows.vllm import has_gpu
from generators.chunks import cut
from generators.documents import ReadResult, read_documents
from generators.recipes import find_recipe
from generators.specs import DocumentsSpec, RecipeSpec, endpoint_urls
from generators.tokens import load_counter
from generators.withholding import Open, withhold
from training.compatibility import PREFERENCE, adapter_of
from training.footprint import largest_batch, predict, read_shape, remedies, size, step_operations
from training.machine import free_memory, product_speed
from training.specs import StageSpec


def memory_line(model: Path, spec: StageSpec, free: int | None = None) -> str:
    """Return what a stage may take at most, and what to change where that is more than is free.

    At most: the rows are not there yet, so all are taken to be as long as `max_length` lets them be.
    """
    gpu = has_gpu()
    how = {"gpu": gpu, "half": gpu and spec.precision != "float32"}
    base = model / "base" if adapter_of(model) is not None else model
    shape, batch = read_shape(base), largest_batch(spec)
    told = predict(shape, spec, batch, **how)
    line = f"at most {size(told.total)} of {'GPU ' if gpu else ''}memory beside the libraries"
    if gpu:  # what is free there is known once CUDA is asked, when the stage starts
        return line
    seconds = step_operations(shape, spec, batch) / product_speed() * spec.gradient_accumulation
    line += f", a full step at least {seconds:.2g} s"
    free = free_memory() if free is None else free
    if told.total <= free:
        return line
    fitting = [f"{one.change} ({size(one.footprint.total)})" for one in remedies(shape, spec, batch, free, **how)]
    return f"{line}; {size(free)} are free: {'; or '.join(fitting) or 'no single setting makes it fit'}"


@dataclass(frozen=True)
class Counted:
    """Documents that were read and cut, and of which nothing is kept."""

    read: ReadResult
    seen: Open
    """What of it may be shown and trained on."""
    chunks: int
    tokens: int
    """Of all chunks, by the student's tokenizer."""

    @property
    def line(self) -> str:
        """The counts in words."""
        return f"{len(self.read.documents):,} in {self.chunks:,} chunks, {self.tokens:,} tokens"


def count_documents(spec: DocumentsSpec, count: Callable[[str], int]) -> Counted:
    """Read and cut the documents; what parses them is started in a process of its own, and ended again.

    Raises:
        DocumentError: there are none.
    """
    with tempfile.TemporaryDirectory(prefix="tutelage-check-") as home:
        read = read_documents(spec, document_parser(Path(home)))
    chunks = [chunk for document in read.documents for chunk in cut(document, spec, count)]
    seen = withhold(read.documents, chunks, spec.withhold_sensitive)
    return Counted(read, seen, len(chunks), sum(count(chunk.text) for chunk in chunks))


def describe(config: Config) -> str:
    """Read the documents and suites and return the plan as text; nothing is kept of it.

    Only what parses documents in a process of its own is started, and ended again.
    """
    count = load_counter(config.student.model)
    counted = count_documents(config.documents, count)
    urls = endpoint_urls(config.teacher.base_url or ())
    where = ", ".join(urls) or "a vLLM server of our own"
    in_flight = f"{config.teacher.concurrency} requests at a time{' each' if len(urls) > 1 else ''}"
    lines = [
        f"project    {config.project}, kept in {config.home}",
        f"documents  {counted.line}",
        *(f"           {line}" for line in ingest_notes(counted.read, counted.seen)),
        f"teacher    {config.teacher.model} on {where}, {in_flight}",
        *(f"generate   {_recipe_line(recipe)}" for recipe in config.generate.recipes),
        f"student    {config.student.model}",
    ]
    suites = {name: load_suite(name, suite) for name, suite in config.suites.items()}
    for name, suite in suites.items():
        more = f" (up to {len(suite.all_samples):,} for the gate)" if suite.reserve else ""
        more += f", and {len(suite.development):,} to choose on" if suite.development else ""
        scorer = suite.spec.scorer.described(suite.samples)
        lines.append(f"suite      {name}: {len(suite.samples):,} samples{more}, {scorer}")
    labels = labels_of({name: suite.all_samples for name, suite in suites.items()})
    for stage in config.stages:
        check_slices(stage.gate, labels)
        gate = ", ".join(f"{rule.subject} {rule.require}" for rule in stage.gate) or "no gate"
        lines.append(f"stage      {stage.name}: {stage.train.stage} by {stage.train.method.name}; gate: {gate}")
        if stage.train.stage in PREFERENCE:
            recipes = ", ".join(spec.name for spec in stage.data.pairs)
            lines.append(f"           pairs: {recipes}; {stage.data.samples} answers per question")
        if stage.train.stage == "classify":
            texts = read_texts(stage)
            lines.append(f"           {len(texts.train):,} labelled texts, {len(texts.held_out):,} held out")
        lines.append(f"           {memory_line(config.student.model, stage.train)}")
    return "\n".join(lines)


def _recipe_line(spec: RecipeSpec) -> str:
    recipe = find_recipe(spec.recipe)
    whose = f" ({recipe.label} in {spec.recipe})" if recipe.source_digest else ""
    shots = f", {spec.shots} examples from {spec.shots_from}" if spec.shots else ""
    return f"{recipe.name}{whose}, {spec.samples} per prompt{shots}"
