"""A recipe of the user's own in a project: from the configuration to accepted items, and a parser that changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from flows.commands.requests import reparse
from flows.config_file import load_config
from flows.pipeline import config_digest, refresh
from flows.progress import SilentReporter
from generators.prompts import load_template
from tests.flows.projects import REPOSITORY, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher, all_product_templates

EXAMPLE = REPOSITORY / "examples" / "recipes"


def own_project(folder: Path, base_url: str) -> Path:
    config = write_project(folder, base_url, count=2)
    copytree(EXAMPLE, folder / "recipes", ignore=lambda *_: ["__pycache__"])
    line = "    - {recipe: recipes/definitions.py, templates: [recipes/definition.jinja]}\nsuites:"
    config.write_text(config.read_text().replace("suites:", line))
    return config


def test_the_configuration_says_where_a_recipe_is_wrong(tmp_path: Path) -> None:
    config = own_project(tmp_path, "http://127.0.0.1:9/v1")
    digest = config_digest(load_config(config))
    path = tmp_path / "recipes" / "definitions.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert config_digest(load_config(config)) != digest
    path.write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"tutelage.yaml:\d+:\d+  generate.recipes\[3\].recipe: .*division by zero"):
        load_config(config)
    path.unlink()
    with pytest.raises(ConfigError, match=r"generate.recipes\[3\].recipe: no recipe at .*definitions.py"):
        load_config(config)


def define(given: Mapping[str, str]) -> str:
    """Answer as a large model would: what the heading names, and a sentence of the chunk."""
    term = given["heading"].partition(" > ")[0]
    evidence = next(line for line in given["chunk"].splitlines() if "40 " in line and "." in line)
    return json.dumps({"evidence": evidence, "term": term, "definition": f"“{evidence}”"})


@pytest.mark.slow
def test_from_the_configuration_to_accepted_items_and_a_changed_parser(tmp_path: Path) -> None:
    own = load_template(
        str(EXAMPLE / "definition.jinja"), "definitions", "en", variables=frozenset({"heading", "chunk"})
    )
    verdict = json.dumps({"reason": "it says so", "verdict": "yes"})
    teacher = ScriptedTeacher([*all_product_templates(), own], {"definitions": define, "judge": lambda _: verdict})
    with ScriptedServer(teacher.answer) as server:
        config = own_project(tmp_path, server.base_url)
        text = config.read_text().replace("project: test", "project: test\ncurate: {judge: {planted: 0}}")
        config.write_text(text)
        first = refresh(load_config(config), SilentReporter())
        made = Catalogue(tmp_path / ".tutelage").items(recipe="definitions")
        assert made
        assert all("> Origin" not in item.meta["question"] for item in made)
        assert first.accepted > 0
        sent = len(server.received)

        path = tmp_path / "recipes" / "definitions.py"
        path.write_text(path.read_text().replace('f"What is {', 'f"What is meant by {'))
        result = CliRunner().invoke(reparse, [str(config), "--json"], catch_exceptions=False)
        counts = {row["recipe"]: row["changes"] for row in json.loads(result.stdout)["recipes"]}
        assert counts["definitions"]["changed"] == len(made)
        assert counts["grounded_qa"]["changed"] == 0
        refresh(load_config(config), SilentReporter())
        asked = [body["messages"][-1]["content"] for body in server.received[sent:]]
        assert asked, "the judge is asked about the new questions"
        assert not any("You write glossaries" in prompt for prompt in asked), "the teacher is not"
