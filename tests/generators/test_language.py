"""The filter by language; the tests that detect need lingua (`pip install '.[language]'`)."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import ValidationError

from data_catalog.errors import ConfigError, MissingDependency
from data_catalog.records import Outcome
from generators.filters import CurateReport, Curator, language
from generators.specs import CurateSpec
from tests.generators.test_filters import CHUNKS, DOCUMENT, OTHER, OTHER_CHUNKS, Teacher, failed, paraphrase, qa


@pytest.fixture
def lingua() -> None:
    pytest.importorskip("lingua")


def curate(item: Any, **spec: Any) -> CurateReport:
    return Curator(
        [*CHUNKS, *OTHER_CHUNKS],
        [DOCUMENT, OTHER],
        CurateSpec.model_validate({"judge": None, "round_trip": None, "anchored": False, **spec}),
        Teacher(),
        [],
        teacher_fingerprint="t",
    ).curate([item])


@pytest.mark.usefixtures("lingua")
@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("How heavy is the Veltrano 40?", "It weighs 312 kg.", ""),
        ("Wie schwer ist die Veltrano 40?", "Sie wiegt 312 kg.", "written in de rather than en or zh"),
        ("Quel est le poids de la presse, et qui l'a construite ?", "312 kg", "written in fr rather than en or zh"),
        ("这台机器有多重？它是在哪里制造的？请简单说明一下。", "312公斤，俄斯特拉发。", ""),
        ("この機械の重さはどれくらいですか、教えてください。", "312キログラム", "written in ja rather than en or zh"),
        ("Wie schwer?", "312 kg", ""),
    ],
)
def test_german_in_latin_letters_is_no_english(question: str, answer: str, fault: str) -> None:
    verdict = language.check(qa(question, answer), ("en", "zh"))
    assert failed(verdict) == fault
    assert (verdict.score is None) is (question == "Wie schwer?"), "so short a text is not judged"


@pytest.mark.usefixtures("lingua")
def test_a_text_is_looked_at_as_a_whole_and_any_wanted_language_will_do() -> None:
    text = paraphrase("Die Presse wiegt 312 Kilogramm und steht auf vier Beinen.")
    assert failed(language.check(text, ("en",))) == "written in de rather than en"
    assert failed(language.check(text, ("en", "de"))) == ""


@pytest.mark.usefixtures("lingua")
def test_in_the_chain_it_stands_behind_the_script_and_unknown_codes_are_refused() -> None:
    german = qa("Wie schwer ist die Maschine Veltrano 40?", "Sie wiegt 312 kg.")
    report = curate(german, languages=["en"])
    assert [said.check for said in report.verdicts if said.outcome is Outcome.FAILED] == ["language@1"]
    assert [row.check for row in report.funnel()][-2:] == ["script@1", "language@1"]
    assert "language@1" not in {row.check for row in curate(german).funnel()}
    with pytest.raises(ConfigError, match="names qq, which lingua does not know"):
        curate(german, languages=["qq"])


def test_without_the_library_the_error_names_the_command_before_anybody_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lingua", None)
    language._detector.cache_clear()
    with pytest.raises(MissingDependency, match=r"pip install 'tutelage\[language\]'"):
        curate(qa(), languages=["en"])


@pytest.mark.parametrize("code", ["english", "EN", ""])
def test_a_language_is_a_code_of_two_letters(code: str) -> None:
    with pytest.raises(ValidationError):
        CurateSpec.model_validate({"languages": [code]})
