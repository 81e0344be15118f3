"""`tutelage sandbox new`: a project that is complete and valid, equal for equal seeds."""

from __future__ import annotations

from pathlib import Path

from data_catalog.errors import ConfigError
from flows.config_file import load_config
from flows.sandbox import SANDBOX, write_project
from tests.flows.projects import tutelage


def test_a_new_world_is_a_valid_project_that_uses_the_sandbox_models(tmp_path: Path) -> None:
    made = tutelage("sandbox", "new", "--seed", "11", "--out", tmp_path / "world")
    assert made.returncode == 0, made.stderr
    config = load_config(tmp_path / "world" / "tutelage.yaml")
    assert config.project == "sandbox-11"
    assert config.student.model == SANDBOX / "models" / "base"
    assert Path(config.teacher.model) == SANDBOX / "models" / "teacher"
    assert config.documents.paths == (tmp_path / "world" / "handbook",)
    assert config.suites["gold"].path.is_file()
    write_project(11, tmp_path / "again")
    for path in sorted((tmp_path / "world").rglob("*.md")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "world")).read_bytes()


def test_a_folder_that_holds_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    made = tutelage("sandbox", "new", "--seed", "11", "--out", tmp_path)
    assert made.returncode == ConfigError.exit_code
    assert "not empty" in made.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
