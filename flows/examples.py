"""Where the in-context examples of a recipe come from: a dataset version of the project, or a file of the user's.

Both stand still: a version is immutable, and the requests that were made with it are made again, word for word, however
many items have been accepted since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_lookup import resolve_dataset
from data_catalog.datasets import dataset_item_ids
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Split
from evaluation.suites import load_suite, questions
from flows.config import Config
from flows.data_steps import Ingested
from generators.examples import Example, ExamplePool
from generators.filters.contamination import EvaluationQuestions
from generators.prompts import VARIABLES
from generators.recipes import Recipe, find_recipe
from generators.recipes.answers import ParseFailure, whole_answer
from generators.recipes.base import Source


def example_pools(
    config: Config, catalogue: Catalogue, ingested: Ingested, count_tokens: Callable[[str], int]
) -> Mapping[int, ExamplePool]:
    """Return where examples are chosen from, by the recipe's place in `generate.recipes`; zero-shot recipes have none.

    Raises:
        ConfigError: the dataset version or file isn't there, can't be read, or has no example of the recipe.
        DataError: a row of a file holds a question of a suite.
    """
    pools = {}
    for place, spec in enumerate(config.generate.recipes):
        if spec.shots_from is None:
            continue
        recipe = find_recipe(spec.recipe)
        if recipe.first_template != recipe.name or recipe.needs_openings:
            raise ConfigError(
                f"{recipe.name} asks in two steps and takes no examples", next_step="leave out shots and shots_from"
            )
        asked = EvaluationQuestions(_suite_questions(config), [], ngram=0)
        if spec.shots_from.endswith(".jsonl"):
            found = list(_of_file(Path(spec.shots_from), recipe, asked))
        else:
            source = Source(ingested.documents, ingested.chunks, count_tokens, config.generate.context_tokens)
            found = list(_of_dataset(catalogue, spec.shots_from, recipe, source, asked))
        if not found:
            raise ConfigError(
                f"{spec.shots_from} has no example of {recipe.name}",
                valid="accepted items of this recipe whose documents are still there, on the training side",
                next_step="tutelage data show names a version's recipes",
            )
        pools[place] = ExamplePool(
            found, count=spec.shots, max_tokens=config.generate.context_tokens, count_tokens=count_tokens
        )
    return pools


def _suite_questions(config: Config) -> list[str]:
    return [question for name, spec in config.suites.items() for question in questions(load_suite(name, spec))]


def _of_dataset(
    catalogue: Catalogue, wanted: str, recipe: Recipe, source: Source, asked: EvaluationQuestions
) -> Iterator[Example]:
    """Yield the accepted items of a version as examples: what the template would be given, and the stored answer.

    Left out are items whose document or chunk is gone or held out, and those that hold a question of a suite.
    """
    version = resolve_dataset(catalogue, wanted).version
    items = catalogue.items(recipe=recipe.name, split=Split.TRAIN, ids=dataset_item_ids(catalogue, version.id))
    keys = [item.request_keys[-1] for item in items]
    requests = {request.key: request for request in catalogue.requests(keys)}
    completions = catalogue.answered(keys)
    variables_of = {ask.subject: ask.variables for ask in recipe.asks(source)}
    for item, key in zip(items, keys, strict=True):
        if key not in requests or key not in completions:
            continue  # made by an import, or its answer is not kept any more
        variables = variables_of.get(requests[key].origin.get("subject", ""))
        answer = whole_answer(completions[key])
        if variables is None or isinstance(answer, ParseFailure):
            continue
        example = Example(item.id, variables, str(answer), item.chunk_id, item.document_id)
        if not asked.fault_of_text(f"{example.text}\n{example.response}"):
            yield example


def _of_file(path: Path, recipe: Recipe, asked: EvaluationQuestions) -> Iterator[Example]:
    """Yield the rows of a file: the template's variables as text, and `response` as text or as the JSON it shall be."""
    names = sorted(recipe.variables or VARIABLES[recipe.name])
    valid = f"one JSON object per line with the texts {', '.join(names)}, and response"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the examples at {path} can't be read: {error}", valid=valid) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number} is no JSON: {error}", valid=valid) from error
        if not isinstance(row, dict) or row.keys() != {*names, "response"}:
            got = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
            raise ConfigError(f"{path}:{number} has {got or 'nothing'}", valid=valid)
        example = Example(f"{path.name}:{number}", {name: str(row[name]) for name in names}, _response(row["response"]))
        if fault := asked.fault_of_text(f"{example.text}\n{example.response}"):
            raise DataError(
                f"{path}:{number} {fault}: an example must not show what will be asked",
                next_step="take that row out, or the question out of the suite",
            )
        yield example


def _response(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
