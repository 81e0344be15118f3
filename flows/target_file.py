"""The generation target of what a model failed: which chunks and documents, with which recipes, how many samples more.

The same choice as a round of `improve` (`flows.improving`), as a file that can be read, edited and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Chunk
from evaluation.scorers.abstention import Abstention
from flows.config import Config
from flows.diagnosis import Diagnosis
from flows.improving import Target, target_of
from generators.recipes import find_recipe
from generators.recipes.unanswerable import Unanswerable
from generators.specs import RecipeSpec
from generators.target import GenerationTarget, TargetRecipe


@dataclass(frozen=True)
class FoundTarget:
    """A generation target, and what its ids mean."""

    failed: Target
    generation: GenerationTarget
    titles: Mapping[str, str]
    """Chunk or document id to the path, and of a chunk its headings."""

    def lines(self) -> Iterator[str]:
        """Yield the file: YAML, with a comment on each id."""
        target = self.generation
        yield f"# What {target.model} failed in suite {target.suite}: {self.failed.failures:,} samples."
        yield f"# Of {self.failed.elsewhere:,} no chunk that is trained on states the answer."
        yield "# Name this file in a configuration:"
        yield "#   generate: {targets: [THIS_FILE]}"
        yield "# Then `tutelage run` asks about what stands here, and about nothing else that is new."
        yield f"model: {target.model}"
        yield f"suite: {target.suite}"
        yield "recipes:"
        for entry in target.recipes:
            yield f"  - recipe: {entry.recipe}"
            yield f"    first_sample: {entry.first_sample}"
            yield f"    samples: {entry.samples}"
            for key, ids in (("chunks", entry.chunks), ("documents", entry.documents)):
                yield from ([f"    {key}:"] if ids else [])
                yield from (f"      - {one}  # {self.titles[one]}" for one in ids)


def find_failure_target(
    catalogue: Catalogue, config: Config, diagnosis: Diagnosis, model: str, samples: int | None = None
) -> FoundTarget:
    """Return the generation target of what a model failed in one suite.

    Args:
        catalogue: of the project.
        config: its recipes are what is asked with, and its suites say on which of them a model should abstain.
        diagnosis: of the suite.
        model: the version that was diagnosed.
        samples: completions per prompt and template; by default those of each recipe.

    Raises:
        DataError: no chunk that is trained on states what was failed, or no recipe can ask about it again.
    """
    chunks = catalogue.chunks()
    abstaining = [name for name, suite in config.suites.items() if isinstance(suite.scorer, Abstention)]
    failed = target_of([diagnosis], chunks, abstaining)
    if not failed.documents:
        raise DataError(
            f"nothing to ask about: of {failed.failures:,} failed samples of suite {diagnosis.suite!r} no chunk that "
            "is trained on states the answer",
            next_step="see what was failed: tutelage diagnose MODEL",
        )
    recipes = _recipes(catalogue, config.generate.recipes, failed, chunks, samples)
    if not recipes:
        raise DataError(
            "no recipe can ask about what was failed again",
            valid="a recipe on chunks with a temperature above 0; `unanswerable` for what the documents do not say",
            next_step="add one under generate.recipes",
        )
    generation = GenerationTarget(model=model, suite=diagnosis.suite, recipes=tuple(recipes))
    return FoundTarget(failed, generation, _titles(catalogue, chunks))


def write_new(path: Path, lines: Iterator[str]) -> None:
    """Write a file that is not there yet.

    Raises:
        ConfigError: there is one, or it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already", next_step="name another file; none is overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}", next_step="name another file") from error


def _recipes(
    catalogue: Catalogue, specs: Sequence[RecipeSpec], failed: Target, chunks: Sequence[Chunk], samples: int | None
) -> list[TargetRecipe]:
    about = {chunk.document_id for chunk in chunks if chunk.id in failed.chunks} | failed.unknown
    asked = catalogue.samples_asked(about)
    found: dict[str, TargetRecipe] = {}
    for spec in specs:
        recipe = find_recipe(spec.recipe)
        abstains = recipe.name == Unanswerable.name
        ids = failed.unknown if abstains else failed.chunks
        if spec.temperature == 0 or recipe.needs_seeds or not ids:
            continue
        wanted = samples or spec.samples
        before = found.get(recipe.name)
        found[recipe.name] = TargetRecipe(
            recipe=recipe.name,
            first_sample=asked.get(recipe.label, 0),
            samples=max(wanted, before.samples) if before is not None else wanted,
            **{"documents" if abstains else "chunks": tuple(sorted(ids))},
        )
    return list(found.values())


def _titles(catalogue: Catalogue, chunks: Sequence[Chunk]) -> dict[str, str]:
    paths = {document.id: document.path for document in catalogue.documents()}
    titles = paths | {
        chunk.id: ", ".join([paths.get(chunk.document_id, ""), " > ".join(chunk.heading_path)]).rstrip(", ")
        for chunk in chunks
    }
    # A comment is one line, whatever a document calls itself.
    return {key: " ".join(title.split()) for key, title in titles.items()}
