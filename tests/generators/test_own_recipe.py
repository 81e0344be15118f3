"""A recipe of the user's own: one file and a template, and what is wrong with those that can't be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from data_catalog.records import Item
from generators.recipes import find_recipe, parse, recipes_of
from generators.specs import RecipeSpec
from tests.generators.helpers import completed, requests_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipes"
PATHS = {"recipe": str(EXAMPLE / "definitions.py"), "templates": [str(EXAMPLE / "definition.jinja")]}
GOOD = {"evidence": "It weighs 312 kg", "term": "the Veltrano 40", "definition": "A dough press of 312 kg."}


def test_the_example_asks_about_every_chunk_and_makes_a_conversation() -> None:
    requests = requests_for(PATHS["recipe"], templates=PATHS["templates"])  # type: ignore[arg-type]
    assert len(requests) == 3
    recipe = find_recipe(str(PATHS["recipe"]))
    assert requests[0].purpose == recipe.label
    assert re.fullmatch(r"definitions@1#[0-9a-f]{12}", recipe.label)
    assert requests[0].template.startswith("definitions/definition#")
    recipes = recipes_of([RecipeSpec(recipe=str(PATHS["recipe"]))])
    item = parse(requests[0], completed(requests[0], json.dumps(GOOD)), recipes)
    assert isinstance(item, Item)
    assert item.payload["messages"][0]["content"] == "What is the Veltrano 40?"
    assert item.meta["version"] == recipe.label


CLASS = """
from generators.recipes.base import Recipe
class {name}(Recipe):
    name = {recipe!r}
    version = {version}
    variables = {variables}
    {more}
    def asks(self, source): return iter(())
    def read(self, request, answer): return None
"""
FINE = {"name": "Mine", "recipe": "mine", "version": 1, "variables": "frozenset({'chunk'})", "more": ""}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "no recipe at .*own.py: No such file or directory"),
        ("import nowhere_to_be_found", r"can't be imported: ModuleNotFoundError: No module named .* \(line 1\)"),
        ("x = 1\n\nx = = 2", r"can't be imported: SyntaxError: invalid syntax \(line 3\)"),
        ("x = 1\n1 / 0", r"can't be imported: ZeroDivisionError: division by zero \(line 2\)"),
        ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("x = 1", "has no recipe\n"),
        ("from generators.recipes.grounded_qa import GroundedQA", "has no recipe\n"),
        (
            "from generators.recipes.base import Recipe\nclass Mine(Recipe):\n    name = 'mine'",
            r"has no recipe \(Mine lacks asks, read\)",
        ),
        (CLASS.format(**FINE) + CLASS.format(**{**FINE, "name": "Other"}), r"has several recipes \(Mine, Other\)"),
        (CLASS.format(**{**FINE, "recipe": "No Name"}), "name is 'No Name' and should be lower-case"),
        (CLASS.format(**{**FINE, "version": "'1'"}), "version is '1' and should be a number"),
        (CLASS.format(**{**FINE, "variables": "frozenset()"}), "variables is frozenset.* and should be"),
        (CLASS.format(**{**FINE, "more": "def __init__(self): raise ValueError('no')"}), r"Mine\(\) can't be made"),
        (CLASS.format(**{**FINE, "recipe": "paraphrase"}), "the name 'paraphrase' is taken"),
        (
            CLASS.format(**{**FINE, "more": "kind = 'text'; checks = frozenset({'judge'})"}),
            "a text has no answer for judge to check",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, source: str | None, said: str) -> None:
    path = tmp_path / "own.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(ConfigError, match=said):
        find_recipe(str(path))


def test_a_recipe_of_ones_own_needs_templates_that_use_what_it_gives(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CLASS.format(**FINE))
    with pytest.raises(ConfigError, match="the recipe mine has no templates"):
        requests_for(str(tmp_path / "own.py"))
    (tmp_path / "own.jinja").write_text("{{ chunk }} {{ focus }}")
    with pytest.raises(ConfigError, match="uses focus, which mine is not given"):
        requests_for(str(tmp_path / "own.py"), templates=[str(tmp_path / "own.jinja")])


def test_a_changed_file_is_a_new_version_at_once(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(CLASS.format(**FINE))
    before = find_recipe(str(path))
    assert find_recipe(str(path)) is before
    path.write_text(CLASS.format(**FINE) + "\n")
    assert find_recipe(str(path)).label != before.label
