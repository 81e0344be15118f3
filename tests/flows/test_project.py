"""Which project a command means."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from flows.project import catalogue_home, find_project, known_home, stages_needing_approval


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


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("home: a\n", ()),
        ("promotion: {needs_approval: [production]}\ndocuments: {paths: [gone]}\n", ("production",)),
        ("promotion: {needs_approval: []}\n", ()),
    ],
)
def test_the_promotion_rule_is_read_without_the_rest(tmp_path: Path, text: str, stages: tuple[str, ...]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    assert stages_needing_approval(find_project(config)) == stages


def test_a_bare_home_has_no_rule_of_its_own(tmp_path: Path) -> None:
    assert stages_needing_approval(find_project(home=tmp_path)) == ()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{needs_aproval: [production]}", r"promotion\.needs_aproval"),
        ("{needs_approval: [live]}", r"promotion\.needs_approval\.0.*'staging' or 'production'"),
        ("yes", "`promotion`"),
    ],
)
def test_a_promotion_rule_that_cannot_be_read_opens_nothing(tmp_path: Path, section: str, said: str) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(f"promotion: {section}\n")
    with pytest.raises(ConfigError, match=said):
        stages_needing_approval(find_project(config))
