"""A generation target: a file that names chunks, documents and recipes, and what more is to be asked about them.

`tutelage diagnose MODEL --write-target FILE` writes one, and `generate.targets` names it to a run. As long as a
configuration names targets, nothing else is newly asked of the teacher: what was answered before stays in the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, ValidationError, model_validator

from data_catalog.errors import ConfigError
from data_catalog.records import Request, Spec, Split


class TargetRecipe(Spec):
    """What is asked with one recipe."""

    recipe: str
    """A recipe's name; each entry of `generate.recipes` that has it is asked, greedy ones (temperature 0) left out."""
    chunks: tuple[str, ...] = ()
    """Ids of chunks that a request must be about."""
    documents: tuple[str, ...] = ()
    """Ids of documents that it must be about, whatever their chunk."""
    first_sample: int = Field(default=0, ge=0)
    """Index of the first new sample: above all that were asked before, so that the answers are new ones."""
    samples: int = Field(default=1, ge=1, le=64)
    """Completions per prompt and template."""

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.chunks and not self.documents:
            raise ValueError(f"recipe {self.recipe!r} has neither `chunks` nor `documents`")
        return self

    @property
    def indices(self) -> range:
        """Sample indices."""
        return range(self.first_sample, self.first_sample + self.samples)

    def covers(self, request: Request) -> bool:
        """Whether a request is of this recipe, about these chunks or documents, and on the training side."""
        origin = request.origin
        if origin.get("recipe") != self.recipe or origin.get("split") != Split.TRAIN.value:
            return False
        # A request on several chunks would ask about other documents too.
        of_chunks = origin.get("chunk_id") in self.chunks and set(origin.get("chunk_ids", ())) <= set(self.chunks)
        return of_chunks or (origin.get("document_id") in self.documents and "chunk_ids" not in origin)


class GenerationTarget(Spec):
    """What is to be asked more about."""

    model: str = ""
    """The model that was diagnosed."""
    suite: str = ""
    """The suite whose failures these are."""
    recipes: tuple[TargetRecipe, ...] = Field(min_length=1)

    def covers(self, request: Request) -> bool:
        """Whether any of the recipes covers a request."""
        return any(entry.covers(request) for entry in self.recipes)


def load_target(path: Path) -> GenerationTarget:
    """Read a target.

    Raises:
        ConfigError: the file is missing, no YAML, or no target.
    """
    try:
        return GenerationTarget.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _refused(path, f"can't be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _refused(path, f"is no generation target: {where + ': ' if where else ''}{first['msg']}") from error


def _refused(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the target {path} {what}",
        valid=f"a YAML file with {', '.join(GenerationTarget.model_fields)}; of a recipe: "
        f"{', '.join(TargetRecipe.model_fields)}",
        next_step="write one: tutelage diagnose MODEL --write-target FILE",
    )
