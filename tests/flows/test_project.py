"""Which project a command means."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from flows.project import catalogue_home, find_project, known_home


def test_configuration_in_the_directory_is_found_and_its_home_read(tmp_path: Path) -> None:
    (tmp_path / "tutelage.yaml").write_text("project: p\nhome: kept/here\ndocuments: {paths: [gone]}\n")
    project = find_project(directory=tmp_path)
    assert project.config == tmp_path / "tutelage.yaml"
    assert project.home == tmp_path / "kept" / "here"


def test_home_beside_the_configuration_is_the_default(tmp_path: Path) -> None:
    config = tmp_path / "deep" / "mine.yaml"
    config.parent.mkdir()
    config.write_text("project: p\n")
    assert find_project(config, directory=tmp_path).home == config.parent / ".tutelage"


def test_home_option_wins_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("home: a\n")
    assert find_project(config, tmp_path / "b").home == tmp_path / "b"


def test_a_bare_home_is_enough(tmp_path: Path) -> None:
    (tmp_path / ".tutelage").mkdir()
    assert find_project(directory=tmp_path).home == tmp_path / ".tutelage"


def test_nothing_here_names_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--home"):
        find_project(directory=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert known_home() is None


def test_home_without_a_catalogue_says_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has not been run yet"):
        catalogue_home(home=tmp_path)


@pytest.mark.parametrize(("text", "said"), [("home: [1]\n", "`home` is"), ("home: 'x\n", "not YAML")])
def test_unreadable_home_is_a_configuration_error(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_project(config)
