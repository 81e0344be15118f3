"""`tutelage preview`: a few chunks through the whole chain, kept for the run that follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import DataError
from flows.config_file import load_config
from flows.pipeline import refresh
from flows.preview import Preview, preview
from flows.progress import SilentReporter
from tests.flows.projects import tutelage, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher


def test_a_preview_shows_items_and_a_forecast_that_the_refresh_then_keeps(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher().answer) as server:
        config = write_project(tmp_path, server.base_url)
        shown = tutelage("preview", config, "-n", "2")
        assert shown.returncode == 0, shown.stderr
        asked = len(server.received)
        seen = preview(load_config(config), SilentReporter(), 2)
        assert len(server.received) == asked, "asked once"
        summary = refresh(load_config(config), SilentReporter())
    assert "  Q  " in shown.stdout
    assert "seen       2 of " in shown.stdout
    assert len({item.path for item in seen.items}) == 2
    assert summary.cached > 0
    requests = sum(recipe.requests for recipe in seen.recipes)
    assert requests == sum(recipe.tried for recipe in preview_of_all(config, seen.of_chunks).recipes)
    (grounded,) = [recipe for recipe in seen.recipes if recipe.recipe == "grounded_qa"]
    assert grounded.accepted > 0
    assert grounded.expected.lower < grounded.accepted / grounded.tried * grounded.requests < grounded.expected.upper
    assert {item.fault for item in seen.items if item.item.recipe == "grounded_qa"} > {""}


def preview_of_all(config: Path, chunks: int) -> Preview:
    """Preview everything, at another server."""
    with ScriptedServer(ScriptedTeacher().answer) as server:
        text = config.read_text()
        config.write_text(text.replace(text.split('base_url: "')[1].split('"')[0], server.base_url))
        return preview(load_config(config), SilentReporter(), chunks)


def test_documents_without_chunks_are_said(tmp_path: Path) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    (path,) = (tmp_path / "docs").iterdir()
    path.write_text("# Only a title\n", encoding="utf-8")
    with pytest.raises(DataError):
        preview(load_config(config), SilentReporter(), 3)
