"""Recipes: ways to make training items, each a file of its own, listed in `RECIPES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from data_catalog.errors import ConfigError
from data_catalog.records import Chunk, Completion, Document, Item, Request
from generators.examples import ExamplePool
from generators.prompts import Template, load_templates
from generators.recipes.active_reading import ActiveReading
from generators.recipes.answers import ParseFailure
from generators.recipes.base import ExamplesFor, FollowUp, Recipe, Source, no_examples
from generators.recipes.chain_of_thought import ChainOfThought
from generators.recipes.document import NAME as DOCUMENT
from generators.recipes.document import document_text_items
from generators.recipes.entigraph import EntiGraph
from generators.recipes.evol_instruct import EvolInstruct
from generators.recipes.grounded_qa import GroundedQA
from generators.recipes.instructions import Instructions
from generators.recipes.magpie import Magpie
from generators.recipes.multi_hop import MultiHop
from generators.recipes.multi_turn import MultiTurn
from generators.recipes.own import SUFFIX, load_recipe
from generators.recipes.paraphrase import Paraphrase
from generators.recipes.personas import Personas
from generators.recipes.rewrites import Rewrites
from generators.recipes.self_instruct import SelfInstruct
from generators.recipes.unanswerable import Unanswerable
from generators.seeds import Seed, load_seeds
from generators.specs import RecipeSpec

__all__ = [
    "RECIPES",
    "FollowUp",
    "ParseFailure",
    "Recipe",
    "build_requests",
    "document_text_items",
    "find_recipe",
    "follow_up_requests",
    "parse",
    "recipes_of",
]

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            GroundedQA(),
            Paraphrase(),
            Unanswerable(),
            MultiHop(),
            MultiTurn(),
            ChainOfThought(),
            Instructions(),
            Personas(),
            Rewrites(),
            EntiGraph(),
            ActiveReading(),
            SelfInstruct(),
            EvolInstruct(),
            Magpie(),
        )
    }
)


def find_recipe(name_or_path: str, base_dir: Path | None = None) -> Recipe:
    """Return a recipe of the product by its name, or one of the user's own by the path of its file.

    Raises:
        ConfigError: there is none, or its file can't be used.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    if not name_or_path.endswith(SUFFIX):
        raise ConfigError(
            f"no recipe {name_or_path!r}",
            valid=f"{', '.join(RECIPES)}, or a *{SUFFIX} file",
            next_step="edit generate.recipes",
        )
    recipe = load_recipe((base_dir or Path()) / name_or_path)
    if recipe.name in RECIPES or recipe.name == DOCUMENT:
        raise ConfigError(
            f"{name_or_path}: the name {recipe.name!r} is taken by a recipe of the product",
            next_step="give the class another name",
        )
    return recipe


def recipes_of(specs: Sequence[RecipeSpec], base_dir: Path | None = None) -> Mapping[str, Recipe]:
    """Return the product's recipes and those of the user's own that `specs` name, by name.

    Raises:
        ConfigError: one can't be used, or two files have recipes of one name.
    """
    found = dict(RECIPES)
    for spec in specs:
        recipe = find_recipe(spec.recipe, base_dir)
        if found.setdefault(recipe.name, recipe) is not recipe:
            raise ConfigError(
                f"two files have a recipe {recipe.name!r}, one of them {spec.recipe}",
                next_step="give one of the classes another name",
            )
    return found


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
    examples: ExamplePool | None = None,
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
        examples: where in-context examples are chosen from; zero-shot when left out.

    Raises:
        ConfigError: an unknown recipe or a template that can't be used.
    """
    recipe = find_recipe(spec.recipe, base_dir)
    if recipe.needs_openings != bool(spec.openings):
        lacking = "goes on with beginnings of a user's turn" if recipe.needs_openings else "takes no openings"
        raise ConfigError(f"{recipe.name} {lacking}", valid="`openings: [...]` for magpie, for no other recipe")
    seeds = _seeds(spec, recipe, base_dir)
    source = Source(documents, chunks, count_tokens, context_tokens, seeds, spec.openings)
    return list(
        recipe.requests(
            spec,
            _templates(spec, recipe, recipe.first_template, base_dir),
            source,
            model=teacher_fingerprint,
            unknown_answer=unknown_answer,
            samples_of=samples_of or (lambda subject: range(spec.samples)),
            examples_for=_chosen_from(examples),
        )
    )


def follow_up_requests(
    spec: RecipeSpec, found: Iterable[tuple[Request, FollowUp]], *, base_dir: Path | None = None
) -> list[Request]:
    """Render what is asked next after answers of the first step (see `generators.recipes.two_steps`).

    Every follow-up is asked once per template, whatever `spec.samples` says: samples are those of the first step. What
    two answers lead to alike is asked once.

    Args:
        spec: of the recipe.
        found: requests of the first step, and what their answers lead to.
        base_dir: the folder that template files are relative to.
    """
    recipe = find_recipe(spec.recipe, base_dir)
    templates = _templates(spec, recipe, recipe.name, base_dir)
    made: dict[str, Request] = {}
    for request, follow_up in found:
        for ask in follow_up.asks:
            for one in recipe.requests_on(
                ask,
                spec,
                templates,
                model=request.model,
                unknown_answer=request.origin["unknown_answer"],
                samples=range(1),
            ):
                made.setdefault(one.key, one)
    return list(made.values())


def parse(
    request: Request, completion: Completion, recipes: Mapping[str, Recipe] = RECIPES
) -> Item | ParseFailure | FollowUp:
    """Make an item from a teacher's answer to a request of `build_requests`, or say why there is none, or what is next.

    Args:
        request: of one of `recipes`.
        completion: the answer.
        recipes: by name (`recipes_of`).
    """
    return recipes[request.origin["recipe"]].parse(request, completion)


def _seeds(spec: RecipeSpec, recipe: Recipe, base_dir: Path | None) -> tuple[Seed, ...]:
    if recipe.needs_seeds != (spec.seeds is not None):
        lacking = "makes more of seed tasks" if recipe.needs_seeds else "asks about documents and takes no seeds"
        raise ConfigError(
            f"{recipe.name} {lacking}", valid="`seeds: tasks.jsonl` for self_instruct and evol_instruct, for no other"
        )
    return () if spec.seeds is None else load_seeds((base_dir or Path()) / spec.seeds)


def _templates(spec: RecipeSpec, recipe: Recipe, kind: str, base_dir: Path | None) -> tuple[Template, ...]:
    two_steps = recipe.first_template != recipe.name
    if spec.first_templates and not two_steps:
        raise ConfigError(
            f"{recipe.name} asks in one step and has no first_templates", valid="`templates` alone for this recipe"
        )
    names = spec.first_templates if two_steps and kind == recipe.first_template else spec.templates
    return load_templates(names, kind, spec.language, base_dir, variables=recipe.variables or None)


def _chosen_from(pool: ExamplePool | None) -> ExamplesFor:
    if pool is None:
        return no_examples
    return lambda ask: pool.choose(
        ask.variables, chunk_id=ask.origin.get("chunk_id"), document_id=ask.origin.get("document_id")
    )
