"""What a generation says while it runs."""

from __future__ import annotations

import pytest

from flows.generation import lacking_line


@pytest.mark.parametrize(
    ("count", "line"),
    [(1, "1 subject has fewer than 3 accepted"), (1200, "1,200 subjects have fewer than 3 accepted")],
)
def test_one_subject_is_no_plural(count: int, line: str) -> None:
    assert lacking_line(count, 3) == line
