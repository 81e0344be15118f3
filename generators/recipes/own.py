"""A recipe of the user's own: one Python file that the configuration names, with templates beside it.

    generate:
      recipes:
        - {recipe: recipes/definitions.py, templates: [recipes/definition.jinja]}

The file has one subclass of `generators.recipes.base.Recipe`; docs/recipes.md has a worked example. Its hash is part of
the recipe's label, which every request and every item carries: a changed file is a new version. What was answered is
not asked again for that; the answers are parsed anew, and only prompts that became different are sent.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from data_catalog.errors import ConfigError
from data_catalog.records import Kind
from generators.recipes.base import Check, Recipe

SUFFIX = ".py"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OF_CONVERSATIONS = {Check.JUDGE, Check.ROUND_TRIP, Check.NEEDS_ALL, Check.OPEN}
_SHAPE = "a Python file with one subclass of generators.recipes.base.Recipe: name, version, variables, asks, read"


def load_recipe(path: Path) -> Recipe:
    """Import a file and return the recipe in it; the same object for the same bytes.

    Raises:
        ConfigError: there is no such file, importing it fails, it has no recipe or several, or the recipe lacks
            something.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"no recipe at {path}: {error.strerror}", valid=_SHAPE) from error
    return _load(path, source)


@lru_cache(maxsize=64)
def _load(path: Path, source: bytes) -> Recipe:
    module = _import(path, source)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Recipe) and value.__module__ == module.__name__
    ]
    recipes = [kind for kind in found if not inspect.isabstract(kind)]
    if len(recipes) != 1:
        lacking = "; ".join(f"{kind.__name__} lacks {', '.join(sorted(kind.__abstractmethods__))}" for kind in found)
        several = ", ".join(kind.__name__ for kind in recipes)
        said = f"several recipes ({several})" if several else f"no recipe ({lacking})" if lacking else "no recipe"
        raise ConfigError(f"{path} has {said}", valid=_SHAPE)
    try:
        recipe = recipes[0]()
    except Exception as error:
        made = f"{recipes[0].__name__}()"
        raise ConfigError(f"{path}: {made} can't be made: {_shown(error, path)}", valid=_SHAPE) from error
    recipe.source_digest = sha256(source).hexdigest()
    _check(recipe, path)
    return recipe


def _import(path: Path, source: bytes) -> ModuleType:
    """Run the file's bytes as they were hashed: the import machinery might take an older compiled file."""
    module = ModuleType(f"tutelage_recipe_{path.stem}_{sha256(source).hexdigest()[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - it is the user's own program
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ConfigError(f"{path} can't be imported: {_shown(error, path)}", valid=_SHAPE) from error
    return module


def _check(recipe: Recipe, path: Path) -> None:
    """Say what the class does not have and every recipe needs."""
    name, version = getattr(recipe, "name", None), getattr(recipe, "version", None)
    variables = recipe.variables
    faults = []
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        faults.append(f"name is {name!r} and should be lower-case letters, digits and _")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        faults.append(f"version is {version!r} and should be a number from 1 on")
    if not isinstance(variables, frozenset) or not variables or not all(isinstance(one, str) for one in variables):
        faults.append(f"variables is {variables!r} and should be a frozenset of the names that its templates are given")
    if recipe.kind == Kind.TEXT and recipe.checks & _OF_CONVERSATIONS:
        faults.append(f"a text has no answer for {', '.join(sorted(recipe.checks & _OF_CONVERSATIONS))} to check")
    if faults:
        raise ConfigError(f"{path}: {'; '.join(faults)}", valid=_SHAPE)


def _shown(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}{where}"
