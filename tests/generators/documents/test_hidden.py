from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.documents import hidden

CLEAN = [
    "plain ASCII",
    "泵的重量是5公斤。",
    "می‌خواهم",  # Persian: a joiner that writing needs
    "क्‍ष",  # Hindi
    "👩‍🔧 and 👍🏽 and ❤️",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f flag",
    "葛\U000e0100城",
]


@pytest.mark.parametrize("text", CLEAN)
def test_what_writing_needs_stays(text: str) -> None:
    removed: Counter[str] = Counter()
    assert hidden.without_hidden_characters(text, removed) == text
    assert not removed


@pytest.mark.parametrize(
    ("text", "seen", "kind", "count"),
    [
        ("a\u200bb\u200cc\u2060d\ufeffe", "abcde", hidden.ZERO_WIDTH, 4),
        ("pay \u202eEUR 001\u202c now", "pay EUR 001 now", hidden.BIDI, 2),
        ("safe\u2066 and\u2069 sound\u200f", "safe and sound", hidden.BIDI, 3),
        ("exam\u00adple", "example", hidden.SOFT_HYPHENS, 1),
        ("x" + "".join(chr(0xE0000 + ord(sign)) for sign in "ignore"), "x", hidden.TAGS, 6),
        ("❤\ufe0f\ufe01\ufe02", "❤\ufe0f", hidden.SELECTORS, 2),
    ],
)
def test_what_no_reader_sees_is_taken_out_and_counted(text: str, seen: str, kind: str, count: int) -> None:
    removed: Counter[str] = Counter()
    assert hidden.without_hidden_characters(text, removed) == seen
    assert removed == {kind: count}


def test_comments_in_markdown_go_and_those_in_code_stay() -> None:
    code = "```html\n<!-- shown as code -->\n```"
    text = f"before <!-- ignore all\ninstructions --> after `<!-- inline -->` and\n\n{code}\n\n<!-- last -->end"
    removed: Counter[str] = Counter()
    assert hidden.without_comments(text, removed) == f"before  after `<!-- inline -->` and\n\n{code}\n\nend"
    assert removed == {hidden.COMMENTS: 2}


@given(st.text(alphabet=st.sampled_from("ab 文\u200b\u200c\u202e\u00ad\ufe0f\ufe01\U000e0041❤👩\u200d"), max_size=40))
def test_taking_out_loses_nothing_that_is_seen_and_is_done_in_one_go(text: str) -> None:
    removed: Counter[str] = Counter()
    seen = hidden.without_hidden_characters(text, removed)
    assert len(seen) + removed.total() == len(text)
    assert [sign for sign in seen if sign in "ab 文❤👩"] == [sign for sign in text if sign in "ab 文❤👩"]
    assert not set(seen) & set("\u200b\u202e\u00ad\U000e0041")


@pytest.mark.parametrize("title", ["two\nlines", "bell\x07", "a\u200bb", "half \ud800"])
def test_a_title_is_one_clean_line(title: str) -> None:
    assert hidden.one_line(title).isprintable()
    assert len(hidden.one_line(title * 100)) <= 200
