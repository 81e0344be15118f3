from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.sentences import sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It holds 3.5 l. It is 1.2 m high.", ["It holds 3.5 l.", "It is 1.2 m high."]),
        ("Dr. Ada Smith came. J. R. Hall did not.", ["Dr. Ada Smith came.", "J. R. Hall did not."]),
        ("Use oil, e.g. Rapsol, or grease etc. Then wait.", ["Use oil, e.g. Rapsol, or grease etc.", "Then wait."]),
        ("See fig. 3 and No. 7. The answer is no. Go on.", ["See fig. 3 and No. 7.", "The answer is no.", "Go on."]),
        ('He said "Stop." Then it was quiet.', ['He said "Stop."', "Then it was quiet."]),
        ('"Stop!" he said. "Why?" she asked.', ['"Stop!" he said.', '"Why?" she asked.']),
        ("Choose plan B. The rest is easy.", ["Choose plan B.", "The rest is easy."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("第一句。第二句！“第三句？”第四句；第五句", ["第一句。", "第二句！", "“第三句？”", "第四句；", "第五句"]),
        ("它重3.5公斤。It is heavy. 请小心。", ["它重3.5公斤。", "It is heavy.", "请小心。"]),
        ("wrapped\nover two lines. Next.", ["wrapped\nover two lines.", "Next."]),
        ("Steps:\n1. Turn it.\n2. Wait", ["Steps:", "1. Turn it.", "2. Wait"]),
        ("- one\n- two\n\nthree", ["- one", "- two", "three"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert [span.of(text) for span in sentences(text)] == expected


@given(st.text(alphabet=st.sampled_from(list('aB1.!?。！ \n-"”)')), max_size=120))
def test_spans_are_in_order_and_cover_all_that_is_not_blank(text: str) -> None:
    end = 0
    for span in sentences(text):
        assert not text[end : span.start].strip()
        assert span.of(text).strip() == span.of(text) != ""
        end = span.end
    assert not text[end:].strip()


def test_a_line_of_dots_takes_no_quadratic_time() -> None:
    assert len(sentences("." * 500_000 + "x. " + "Mr. " * 50_000)) >= 1
