"""`tutelage compare`: the gates' figures, the flips and the data beside them, and a page that is only text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, DataError, RegistryError
from evaluation.statistics import paired_bootstrap, sign_test
from flows.commands.compare import compare
from tests.flows.compared import BASE, EVIL, Project, make_project
from tests.flows.pages import Page, assert_links_work, assert_self_contained
from tests.flows.registered import register_model


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("compared") / "home")


def invoke(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(compare, [*arguments, "--home", str(project.catalogue.home)])


def output(project: Project, *arguments: str) -> str:
    result = invoke(project, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_two_versions_are_compared_by_the_statistics_of_the_gates(project: Project) -> None:
    told = json.loads(output(project, "production", "candidate", "--json"))
    assert (told["first"]["id"], told["second"]["id"]) == (project.first.model.id, project.second.model.id)
    general, gold = told["suites"]
    differences = [float(20 <= number < 50) for number in range(60)]
    assert (gold["suite"], gold["finding"]) == ("gold", "better")
    assert gold["paired"]["difference"] == pytest.approx(0.5)
    assert gold["paired"]["interval"] == list(paired_bootstrap(differences))
    assert gold["paired"]["p_value"] == sign_test(differences).p_value
    assert len(gold["paired"]["gained"]) == 30
    assert (general["finding"], general["paired"]["difference"]) == ("no difference shown", 0.0)


def test_the_text_has_figures_flips_and_the_data(project: Project) -> None:
    text = output(project, "production", "candidate", "--limit", "2")
    for expected in (
        f"production  {project.first.model.id}",
        "candidate against production: better on gold",
        "+50.0",
        "30/0",
        "gold: 30 learned",
        "What weighs number 20?",
        "expected    20 kg",
        "and 28 more",
        "learn: 1 rows in both, 2 differ",
        "1 added    verdict changed",
        f"tutelage data diff {project.first.dataset.id} {project.second.dataset.id}",
    ):
        assert expected in text, expected


def test_turned_round_it_is_worse(project: Project) -> None:
    assert "worse on gold" in output(project, "candidate", "production")


def test_a_run_is_compared_whether_or_not_it_was_registered(project: Project) -> None:
    told = json.loads(output(project, project.first.run.id[:14], project.second.run.id, "--json"))
    assert told["first"]["id"] == project.first.run.id
    assert (told["first"]["method"], told["first"]["step"]) == ("lora", "train:learn")
    assert told["stages"][0]["diff"]["rows"]


def test_base_is_what_the_other_was_trained_from(project: Project) -> None:
    told = json.loads(output(project, "base", "candidate", "--json"))
    assert told["first"]["id"] == BASE
    assert told["suites"][1]["paired"]["difference"] == pytest.approx(47 / 60)
    assert told["stages"] == [{"stage": "learn", "first": None, "second": project.second.dataset.id, "diff": None}]
    assert "worse on gold" in output(project, "candidate", "base")


@pytest.fixture(scope="module")
def html(project: Project) -> str:
    path = project.catalogue.home / "pages" / "deep" / "comparison.html"
    result = invoke(project, "production", "candidate", "--html", str(path))
    assert result.stderr == f"page  {path}\n"
    return path.read_text(encoding="utf-8")


class TestPage:
    def test_is_whole_and_needs_nothing_else(self, html: str) -> None:
        assert_self_contained(html)
        assert_links_work(html)

    def test_what_a_document_or_a_model_holds_stays_text(self, html: str) -> None:
        page = Page(html)
        assert page.tags["script"] == 0
        # The question, answers of both models, the item's payload, the check's reason, the document's path.
        assert page.plain.count("<script>alert(1)</script>") > 10
        assert f"{EVIL}.md" in page.plain

    def test_shows_scores_flips_causes_and_models(self, html: str) -> None:
        page = Page(html)
        assert page.tags["svg"] == 4
        for expected in (
            "candidate against production: better on gold",
            "+50.0 points",
            "30 won, 0 lost",
            "30 learned of 60",
            "verdict changed grounded_qa",
            "evidence@1 said failed",
            "older",
            "teacher",
        ):
            assert expected in page.plain, expected


def test_names_that_fit_nothing_are_told(project: Project) -> None:
    assert isinstance(invoke(project, "production", "staging").exception, RegistryError)
    unknown = invoke(project, "production", "run-0000").exception
    assert isinstance(unknown, ConfigError)
    assert project.first.run.id in str(unknown)
    assert isinstance(invoke(project, "base", "base").exception, ConfigError)
    of_a_run = invoke(project, "base", project.first.run.id).exception
    assert isinstance(of_a_run, ConfigError)
    assert "not on record" in str(of_a_run)


def test_without_common_scores_there_is_nothing_to_compare(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    result = CliRunner().invoke(compare, ["candidate", "base", "--home", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert "which weights were scored" in str(result.exception)
    made = make_project(tmp_path / "home")
    Catalogue(made.catalogue.home).put_scores("weights-two", "gold", [])
    Catalogue(made.catalogue.home).put_scores("weights-two", "general", [])
    nothing = invoke(made, "production", "candidate").exception
    assert isinstance(nothing, DataError)
    assert "`production` on general, gold and `candidate` on none" in str(nothing)
