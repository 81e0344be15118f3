"""Recipes in two steps and of several chunks in a project: asked once, stored, parsed again alike, forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import dataset_item_ids, list_datasets
from flows.commands.requests import reparse
from flows.config_file import load_config
from flows.pipeline import refresh
from flows.preview import preview
from flows.progress import SilentReporter
from tests.flows.projects import write_project
from tests.generators.large_model import LARGE_MODEL
from tests.scripted_server import ScriptedServer, ScriptedTeacher

RECIPES = """\
    - {recipe: entigraph, max_samples: 2, target: 1, samples: 1}
    - {recipe: personas}
    - {recipe: multi_hop}
    - {recipe: magpie, openings: ["<|im_start|>user\\n"], samples: 3, temperature: 1.0}
"""


@pytest.mark.slow
def test_what_a_plan_led_to_is_asked_once_and_stored_with_its_lineage(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher(answers=LARGE_MODEL).answer) as server:
        path = write_project(tmp_path, server.base_url, count=2)
        text = path.read_text()
        first, last = text.index("    - {recipe"), text.index("suites:")
        path.write_text(text[:first] + RECIPES + text[last:])
        shown = preview(load_config(path), SilentReporter(), 2)
        assert {item.item.recipe for item in shown.items} == {"entigraph", "personas", "multi_hop"}
        refresh(load_config(path), SilentReporter())
        catalogue = Catalogue(tmp_path / ".tutelage")
        items = {item.id: item for item in catalogue.items() if item.request_keys}
        assert {item.recipe for item in items.values()} == {"entigraph", "personas", "multi_hop", "magpie"}
        for item in items.values():
            assert set(item.request_keys) == set(catalogue.answered(item.request_keys))
            assert len(item.request_keys) == (1 if item.recipe == "multi_hop" else 2)
        names = {one.name: one.id for one in list_datasets(catalogue)}
        learned = {items[id_].recipe for id_ in dataset_item_ids(catalogue, names["test-learn"])}
        assert learned == {"personas", "multi_hop", "magpie"}, "sft takes every recipe that makes conversations"
        assert "entigraph" in {
            items[id_].recipe for id_ in dataset_item_ids(catalogue, names["test-read"]) if id_ in items
        }

        assert refresh(load_config(path), SilentReporter()).asked == 0
        result = CliRunner().invoke(reparse, [str(path), "--json"], catch_exceptions=False)
        assert json.loads(result.stdout)["answers"] == []
