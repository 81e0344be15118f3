"""Recipes: ways to make training items, each a file of its own, listed in `RECIPES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from data_catalog.errors import ConfigError
from data_catalog.records import Chunk, Completion, Document, Item, Request
from generators.prompts import load_templates
from generators.recipes.base import ParseFailure, Recipe, Source
from generators.recipes.document import document_text_items
from generators.recipes.grounded_qa import GroundedQA
from generators.recipes.paraphrase import Paraphrase
from generators.recipes.unanswerable import Unanswerable
from generators.specs import RecipeSpec

__all__ = ["RECIPES", "ParseFailure", "build_requests", "document_text_items", "parse"]

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (GroundedQA(), Paraphrase(), Unanswerable())}
)


def build_requests(
    spec: RecipeSpec,
    documents: Sequence[Document],
    chunks: Sequence[Chunk],
    *,
    teacher_fingerprint: str,
    count_tokens: Callable[[str], int],
    context_tokens: int,
    unknown_answer: str = "I do not know.",
    base_dir: Path | None = None,
    samples_of: Callable[[str], range] | None = None,
) -> list[Request]:
    """Render every prompt of a recipe, in an order that depends on nothing but the arguments.

    Args:
        spec: which recipe, templates, samples and sampling.
        documents: in the order in which they were read.
        chunks: of these documents.
        teacher_fingerprint: which model answers; part of each request's key.
        count_tokens: tokens of a text, for recipes that need a whole document.
        context_tokens: the longest text of a whole document in a prompt.
        unknown_answer: what the student shall answer when it was never told.
        base_dir: the folder that template files are relative to.
        samples_of: from a subject (`origin["subject"]`) to the indices of its samples; by default `spec.samples`.

    Raises:
        ConfigError: an unknown recipe or a template that can't be used.
    """
    if spec.recipe not in RECIPES:
        raise ConfigError(f"no recipe {spec.recipe!r}", valid=", ".join(RECIPES), next_step="edit generate.recipes")
    templates = load_templates(spec.templates, spec.recipe, spec.language, base_dir)
    source = Source(documents, chunks, count_tokens, context_tokens)
    recipe = RECIPES[spec.recipe]
    return list(
        recipe.requests(
            spec,
            templates,
            source,
            model=teacher_fingerprint,
            unknown_answer=unknown_answer,
            samples_of=samples_of or (lambda subject: range(spec.samples)),
        )
    )


def parse(request: Request, completion: Completion) -> Item | ParseFailure:
    """Make an item from a teacher's answer to a request of `build_requests`, or say why there is none."""
    return RECIPES[request.origin["recipe"]].parse(request, completion)
