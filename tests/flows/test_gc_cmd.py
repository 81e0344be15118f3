"""`tutelage gc` on real files: what is listed, what is deleted, and what never is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from data_catalog.catalogue import Catalogue
from data_catalog.errors import CatalogueBusy, ConfigError, RegistryError
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry import Registry
from flows.commands.gc import gc
from flows.model_steps import stage_directory
from tests.flows.registered import register_model


@dataclass(frozen=True)
class Kept:
    """A model and the folder of the run that made it."""

    version: ModelVersion
    run: str
    folder: Path


def train(home: Path, name: str, *, done: bool = True) -> tuple[str, Path]:
    """Record a training run and give it a folder."""
    catalogue = Catalogue(home)
    run = catalogue.start_step("train:sft", f"{name:0<64}")
    folder = stage_directory(home, run.step, run.fingerprint)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"12345678")
    if done:
        catalogue.finish_step(run, {})
    return run.id, folder


def make(home: Path, name: str) -> Kept:
    run, folder = train(home, name)
    return Kept(register_model(home, name, run_id=run), run, folder)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def three(home: Path) -> tuple[Kept, Kept, Kept]:
    """In production, never promoted, and the candidate."""
    made = make(home, "one"), make(home, "two"), make(home, "three")
    Registry(Catalogue(home)).promote(made[0].version.id, Stage.PRODUCTION, actor="me")
    return made


def invoke(home: Path, *arguments: str, student: str | None = None) -> Result:
    config = home.parent / "tutelage.yaml"
    content: dict[str, Any] = {"home": "home"} | ({"student": {"model": student}} if student else {})
    config.write_text(json.dumps(content))
    return CliRunner().invoke(gc, [str(config), *arguments])


def read(home: Path, *arguments: str) -> set[str]:
    result = invoke(home, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {entry["id"] for entry in json.loads(result.stdout)}


def test_it_lists_by_default_and_deletes_on_request(home: Path, three: tuple[Kept, Kept, Kept]) -> None:
    production, forgotten, candidate = three
    result = invoke(home)
    assert result.output.splitlines()[-1].startswith("2 unreachable, 0.0 MB; nothing was deleted")
    assert forgotten.version.id in result.output
    assert (home / forgotten.version.path).is_dir()
    assert read(home) == {forgotten.version.id, forgotten.run}

    assert invoke(home, "--apply").output.splitlines()[-1] == "2 unreachable, 0.0 MB; deleted"
    assert not (home / forgotten.version.path).exists()
    assert not forgotten.folder.exists()
    for one in (production, candidate):
        Registry(Catalogue(home)).verify(one.version.id)
        assert one.folder.is_dir()
    assert invoke(home, "--apply").output == "nothing to delete\n"
    removed = Registry(Catalogue(home)).history(Stage.ARCHIVED)[-1]
    assert (removed.action, removed.model_id) == ("remove", forgotten.version.id)
    assert "@" in removed.actor


def test_what_is_named_is_kept(home: Path, three: tuple[Kept, Kept, Kept]) -> None:
    forgotten = three[1]
    assert read(home, "--keep", forgotten.version.id[:14]) == set()
    assert read(home, "--keep", forgotten.run) == {forgotten.version.id}
    result = invoke(home, "--json", student=f"home/{forgotten.version.path}")
    assert json.loads(result.stdout) == [], "the configured student, and what it was made from"
    refused = invoke(home, "--apply", "--keep", "nonsense")
    assert isinstance(refused.exception, ConfigError)
    assert (home / forgotten.version.path).is_dir()


def test_an_unfinished_run_and_a_folder_of_somebody_else_are_kept(home: Path, three: tuple[Kept, Kept, Kept]) -> None:
    _, unfinished = train(home, "unfinished", done=False)
    elsewhere = home / "stages" / "mine"
    elsewhere.mkdir()
    assert invoke(home, "--apply").exit_code == 0
    assert unfinished.is_dir()
    assert elsewhere.is_dir()
    assert (home / "stages" / "two").is_dir(), "no run is recorded for it"


def test_nothing_is_deleted_while_a_run_is_active(home: Path, three: tuple[Kept, Kept, Kept]) -> None:
    with Catalogue(home).run_lock("tutelage run"):
        assert isinstance(invoke(home, "--apply").exception, CatalogueBusy)
        assert invoke(home).exit_code == 0, "to look is no harm"
    assert three[1].folder.is_dir()


def test_nothing_is_deleted_on_the_word_of_a_log_that_was_tampered_with(
    home: Path, three: tuple[Kept, Kept, Kept]
) -> None:
    with Catalogue(home).store.writing() as con:
        con.execute("UPDATE registry_events SET model_id = ? WHERE stage = 'production'", [three[1].version.id])
    assert isinstance(invoke(home, "--apply").exception, RegistryError)
    assert (home / three[0].version.path).is_dir()
