"""What a configuration would do, without doing it: documents, chunks, prompts, stages and gates in a few lines."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evaluation.gates import check_slices, labels_of
from evaluation.suites import load_suite
from flows.config import Config
from flows.data_steps import ingest_notes
from flows.document_parser import document_parser
from generators.chunks import cut
from generators.documents import read_documents
from generators.recipes import find_recipe
from generators.specs import RecipeSpec, endpoint_urls
from generators.tokens import load_counter
from generators.withholding import withhold


def describe(config: Config) -> str:
    """Read the documents and suites and return the plan as text; nothing is kept of it.

    Only what parses documents in a process of its own is started, and ended again.
    """
    count = load_counter(config.student.model)
    with tempfile.TemporaryDirectory(prefix="tutelage-check-") as home:
        read = read_documents(config.documents, document_parser(Path(home)))
    chunks = [chunk for document in read.documents for chunk in cut(document, config.documents, count)]
    seen = withhold(read.documents, chunks, config.documents.withhold_sensitive)
    tokens = sum(count(chunk.text) for chunk in chunks)
    urls = endpoint_urls(config.teacher.base_url or ())
    where = ", ".join(urls) or "a vLLM server of our own"
    in_flight = f"{config.teacher.concurrency} requests at a time{' each' if len(urls) > 1 else ''}"
    lines = [
        f"project    {config.project}, kept in {config.home}",
        f"documents  {len(read.documents):,} in {len(chunks):,} chunks, {tokens:,} tokens",
        *(f"           {line}" for line in ingest_notes(read, seen)),
        f"teacher    {config.teacher.model} on {where}, {in_flight}",
        *(f"generate   {_recipe_line(recipe)}" for recipe in config.generate.recipes),
        f"student    {config.student.model}",
    ]
    suites = {name: load_suite(name, suite) for name, suite in config.suites.items()}
    for name, suite in suites.items():
        more = f" (up to {len(suite.all_samples):,} for the gate)" if suite.reserve else ""
        lines.append(f"suite      {name}: {len(suite.samples):,} samples{more}, {suite.spec.scorer.name}")
    labels = labels_of({name: suite.all_samples for name, suite in suites.items()})
    for stage in config.stages:
        check_slices(stage.gate, labels)
        gate = ", ".join(f"{rule.subject} {rule.require}" for rule in stage.gate) or "no gate"
        lines.append(f"stage      {stage.name}: {stage.train.stage} by {stage.train.method.name}; gate: {gate}")
    return "\n".join(lines)


def _recipe_line(spec: RecipeSpec) -> str:
    recipe = find_recipe(spec.recipe)
    whose = f" ({recipe.label} in {spec.recipe})" if recipe.source_digest else ""
    shots = f", {spec.shots} examples from {spec.shots_from}" if spec.shots else ""
    return f"{recipe.name}{whose}, {spec.samples} per prompt{shots}"
