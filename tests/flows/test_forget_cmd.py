"""`tutelage forget` with a deterministic teacher: a document stays out of the datasets although its file is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import list_datasets, read_rows
from data_catalog.errors import CatalogueBusy, DataError
from flows.commands.forget import forget
from flows.config_file import load_config
from flows.pipeline import RefreshSummary, refresh
from flows.progress import SilentReporter
from tests.flows.projects import handbook, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(ScriptedTeacher().answer) as running:
        yield running


def refreshed(config: Path) -> RefreshSummary:
    return refresh(load_config(config), SilentReporter())


def texts(config: Path, summary: RefreshSummary) -> str:
    """Return everything that a model would be trained on."""
    home = config.parent / ".tutelage"
    paths = [home / one.path for one in list_datasets(Catalogue(home)) if one.id in summary.datasets.values()]
    return json.dumps([read_rows(path) for path in paths], ensure_ascii=False)


def invoke(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(forget, [*arguments, "-c", str(config)])


def path_of(config: Path, name: str) -> str:
    documents = Catalogue(config.parent / ".tutelage").documents(current_only=False)
    return next(one.path for one in documents if one.path.endswith(name))


def test_a_forgotten_document_stays_out_until_that_is_taken_back(tmp_path: Path, server: ScriptedServer) -> None:
    config = write_project(tmp_path, server.base_url, count=3)
    first = refreshed(config)
    assert "Brixal" in texts(config, first)
    path = path_of(config, "brixal.md")

    plan = invoke(config, path)
    assert plan.exit_code == 0, plan.output
    assert "dataset versions: 2" in plan.output
    assert plan.output == invoke(config, path, "--plan").output
    assert refreshed(config).datasets == first.datasets, "a plan changes nothing"

    applied = invoke(config, path, "--apply")
    assert "whatever stands at this path stays out" in applied.output.splitlines()[0]
    second = refreshed(config)
    assert (tmp_path / "docs" / "brixal.md").is_file()
    assert "Brixal" not in texts(config, second)
    assert second.unchanged == 2
    refused = dict(Catalogue(tmp_path / ".tutelage").refusals())
    assert refused[path].startswith("excluded by `tutelage forget`")
    (tmp_path / "docs" / "brixal.md").write_text(handbook("Brixal", 999), encoding="utf-8")
    assert "Brixal" not in texts(config, refreshed(config)), "whatever stands at the path"

    (tmp_path / "docs" / "brixal.md").write_text(handbook("Brixal", 223), encoding="utf-8")
    assert "no longer excluded" in invoke(config, path, "--undo").output
    assert refreshed(config).datasets == first.datasets
    assert isinstance(invoke(config, path, "--undo").exception, DataError)


def test_the_plan_as_json_has_every_item(tmp_path: Path, server: ScriptedServer) -> None:
    config = write_project(tmp_path, server.base_url, count=2)
    refreshed(config)
    path = path_of(config, "brixal.md")
    plan = json.loads(invoke(config, path, "--json").stdout)
    of_document = {
        one.id
        for one in Catalogue(tmp_path / ".tutelage").items(current_only=False)
        if one.document_id == plan["documents"][0]
    }
    assert of_document
    assert of_document <= set(plan["items"])
    applied = invoke(config, path, "--apply", "--json")
    assert json.loads(applied.stdout)["items"] == plan["items"]


def test_it_is_not_applied_under_a_run_that_has_read_the_document_already(
    tmp_path: Path, server: ScriptedServer
) -> None:
    config = write_project(tmp_path, server.base_url, count=2)
    refreshed(config)
    path = path_of(config, "brixal.md")
    with Catalogue(tmp_path / ".tutelage").run_lock("tutelage run"):
        assert isinstance(invoke(config, path, "--apply").exception, CatalogueBusy)
        assert invoke(config, path).exit_code == 0
    assert invoke(config, path, "--apply", "--undo").exit_code == 2
