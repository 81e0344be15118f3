"""Numeric: quantities across units, writings and languages; every parameter with its effect."""

from __future__ import annotations

import pytest

from evaluation.scorers.numeric import Numeric
from evaluation.scorers.quantities import UNITS, quantities
from tests.evaluation.scored import sample, scored


@pytest.mark.parametrize(
    ("text", "expected", "value"),
    [
        ("1.2 t", "1,200 kg", 1),
        ("It weighs 1200 kilograms.", "1,200 kg", 1),
        ("重１２００公斤。", "1,200 kg", 1),
        ("重量为1.2吨", "1,200 kg", 1),
        ("1,2 t", "1,200 kg", 1),
        ("1.3 t", "1,200 kg", 0),
        ("1200", "1,200 kg", 0),
        ("1200 mm", "1,200 kg", 0),
        ("It has 4 wheels and weighs 1.2 t", "1,200 kg", 1),
        ("not 900 kg but 1.2 t", "1,200 kg", 0),
        ("0.5 MPa", "5 bar", 1),
        ("5 mW", "5 MW", 0),
        ("2 h", "120 min", 1),
        ("两小时是120分钟", "2小时", 1),
        ("77 °F", "25 ℃", 1),
        ("25摄氏度", "298.15 K", 1),
        ("1.5万", "15000", 1),
        ("2 million", "2,000,000", 1),
        ("-5 °C", "−5 °C", 1),
        ("5 °C", "-5 °C", 0),
        ("12 bolts of 3 mm", "12", 1),
        ("The XR-200 has 12", "12", 1),
        ("about 10-12", "12", 0),
        ("1.5e3 W", "1.5 kW", 1),
        ("40 %", "40%", 1),
        ("none", "12", 0),
        ("", "12", 0),
    ],
)
def test_numeric(text: str, expected: str, value: float) -> None:
    assert scored(Numeric(), text, expected) == value


def test_any_expected_answer_will_do() -> None:
    assert scored(Numeric(), "3 kg", "2 kg", "3000 g") == 1


@pytest.mark.parametrize(("tolerance", "value"), [(0.0, 0), (0.02, 0), (0.05, 1)])
def test_the_tolerance_is_a_share_of_the_expected_number(tolerance: float, value: float) -> None:
    assert scored(Numeric(tolerance=tolerance), "103 kg", "100 kg") == value
    assert scored(Numeric(tolerance=tolerance), "97 kg", "100 kg") == value


def test_a_bare_number_may_be_allowed() -> None:
    lenient = Numeric(unit_required=False)
    assert scored(lenient, "1200", "1,200 kg") == 1
    assert scored(lenient, "1200 mm", "1,200 kg") == 0


def test_a_sample_without_a_number_is_refused() -> None:
    assert "needs a number in each answer, got 'many'" in Numeric().refusal(sample("3", "many"))
    assert "needs `answers`" in Numeric().refusal(sample())


@pytest.mark.parametrize("name", sorted(UNITS))
def test_every_unit_is_found_behind_its_number(name: str) -> None:
    assert [found.unit for found in quantities(f"3 {name}.")] == [UNITS[name]]
    assert [found.unit for found in quantities(f"共3{name}，")] == [UNITS[name]]


def test_a_letter_behind_makes_it_another_word() -> None:
    assert [found.unit for found in quantities("3 maps, 3 tons of fun, 3 a")] == [None, None, None]
