"""`tutelage overview`: all that the catalogue knows of a project on one page, as text, from real records."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from flows.commands.overview import overview
from flows.overview import overview_data
from flows.report import charts
from flows.report.overview import outcome_rows, row_series, score_series
from tests.flows.compared import EVIL, Project, make_project
from tests.flows.pages import Page, assert_links_work, assert_self_contained


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("project") / "home")
    made.catalogue.fail_step(made.catalogue.start_step("train:next", "next"), f"it broke: {EVIL}")
    return made


@pytest.fixture(scope="module")
def html(project: Project) -> str:
    home = project.catalogue.home
    (home / "reports").mkdir()
    (home / "reports" / "test.html").write_text("the report")
    result = CliRunner().invoke(overview, ["--home", str(home)])
    assert result.output == f"page  {home / 'reports' / 'index.html'}\n"
    return (home / "reports" / "index.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    assert_self_contained(html)
    assert_links_work(html)
    assert Page(html).tags["script"] == 0
    assert Page(html).plain.count("<script>alert(1)</script>") == 3  # two gates' reasons and the failed run's error
    assert 'name="viewport"' in html
    assert "@media print" in html


def test_everything_that_is_known_is_on_it(html: str, project: Project) -> None:
    page = Page(html)
    first, second = project.first, project.second
    for expected in (
        f"test: {first.model.id[:14]} is in production",
        "model versions 2",
        "dataset versions 2",
        "83 %",
        f"promote: production is {first.model.id[:14]}",
        "ada@desk",
        "learn INCONCLUSIVE",
        f"test-learn {second.dataset.id[:16]}",
        "train:learn",
        "train:next",
        "failed",
    ):
        assert expected in page.plain, expected
    assert page.values("href").count("test.html") == 1
    assert page.tags["svg"] == 4  # two suites, the gates, one dataset name


def test_the_charts_show_the_records_in_their_order(project: Project) -> None:
    data = overview_data(project.catalogue, project.catalogue.home / "page.html")
    gold = score_series(data, "gold")
    assert [point.value for point in gold.points] == pytest.approx([20 / 60, 50 / 60])
    assert [point.kind for point in gold.points] == ["dot", "dot hollow"]  # the first is in production
    assert gold.reference == pytest.approx(3 / 60)
    assert gold.points[1].at - gold.points[0].at > 86_000
    (rows,) = row_series(data)
    assert (rows.name, [point.value for point in rows.points]) == ("test-learn", [2, 2])
    (gates,) = outcome_rows(data)
    assert [outcome for _, outcome in gates.marks] == ["pass", "inconclusive"]
    assert data.report == ""


def test_a_project_without_anything_has_a_page_too(tmp_path: Path) -> None:
    Catalogue(tmp_path / "shop" / "home")
    out = tmp_path / "elsewhere" / "home.html"
    result = CliRunner().invoke(overview, ["--home", str(tmp_path / "shop" / "home"), "--out", str(out)])
    assert result.output == f"page  {out}\n"
    page = Page(out.read_text(encoding="utf-8"))
    assert "shop: no model has been registered yet" in page.plain
    assert page.tags["svg"] == 0


def test_without_a_catalogue_it_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(overview, ["--home", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "has not been run yet" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


class TestTimeCharts:
    def test_one_moment_stands_in_the_middle_with_one_date(self) -> None:
        series = charts.TimeSeries("gold", (charts.TimePoint(1_795_000_000.0, 0.5, None, "dot"),), None)
        svg = charts.time_chart(series, as_share=True)
        assert svg.count("18 Nov 2026") == 2  # under the axis and in the text for those who can't see it
        assert "nan" not in svg

    def test_values_stand_where_they_belong(self) -> None:
        points = tuple(charts.TimePoint(86_400.0 * day, value, None, "dot") for day, value in ((0, 0.0), (10, 1.0)))
        svg = charts.time_chart(charts.TimeSeries("gold", points, 0.5), as_share=True)
        assert 'points="52.0,150.0 300.0,14.0"' in svg
        assert 'class="threshold" x1="44.0" x2="300.0" y1="82.0"' in svg

    def test_counts_start_at_nothing(self) -> None:
        points = (charts.TimePoint(0.0, 900, None, "dot"), charts.TimePoint(9e6, 1000, None, "dot"))
        svg = charts.time_chart(charts.TimeSeries("rows", points, None), as_share=False)
        assert ">0<" in svg
        assert ">1,000<" in svg

    def test_outcomes_differ_in_shape_not_only_in_colour(self) -> None:
        marks = ((0.0, "pass"), (1.0, "fail"), (2.0, "inconclusive"))
        page = Page(charts.outcome_chart([charts.OutcomeRow("learn", marks)]))
        assert (page.tags["circle"], page.tags["path"]) == (2, 1)
        assert "nothing yet" in charts.outcome_chart([])
        assert "nothing yet" in charts.time_chart(charts.TimeSeries("gold", (), None), as_share=True)
