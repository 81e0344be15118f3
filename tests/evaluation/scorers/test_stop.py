"""Stop: whether the model ended by itself."""

from __future__ import annotations

import pytest

from evaluation.scorers.stop import Stop
from tests.evaluation.scored import scored


@pytest.mark.parametrize(("finish", "value"), [("stop", 1), ("length", 0)])
def test_stop(finish: str, value: float) -> None:
    assert scored(Stop(), "text", finish=finish) == value
