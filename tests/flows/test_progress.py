"""What the user sees while a run goes on."""

from __future__ import annotations

import io

import pytest

from flows.progress import RecordingReporter, SilentReporter, TerminalReporter, clock


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (65, "1 min 05 s"), (7380, "2 h 03 min")]
)
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    reporter.step_started("generate", "10 requests")
    for done in range(11):
        reporter.step_progress("generate", done, 10)
    reporter.step_done("generate", "9 items")
    reporter.step_done("report", "unchanged", cached=True)
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert lines[0].split() == ["…", "generate", "10", "requests"]
    assert any("✓ generate" in line and "9 items" in line for line in lines)
    assert len(lines) < 6, "progress is throttled"


def test_on_a_terminal_the_live_line_is_cleared_before_the_result() -> None:
    stream = Terminal()
    reporter = TerminalReporter(stream)
    reporter.step_started("train")
    reporter.step_progress("train", 1, 4, "loss 2.0")
    reporter.step_done("train", "done")
    assert stream.getvalue().endswith("done\n")
    assert "\r\x1b[2K  ✓ train" in stream.getvalue()


def test_the_eta_follows_what_was_done_in_this_step_not_what_came_from_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("flows.progress.time.monotonic", lambda: now)
    stream = Terminal()
    reporter = TerminalReporter(stream)
    reporter.step_started("generate")
    reporter.step_progress("generate", 900, 1000)
    now += 10
    reporter.step_progress("generate", 950, 1000)
    assert "950 of 1,000, 10 s left" in stream.getvalue()


def test_a_recording_reporter_keeps_times_and_passes_everything_on() -> None:
    stream = io.StringIO()
    reporter = RecordingReporter(TerminalReporter(stream))
    reporter.step_started("ingest")
    reporter.step_done("ingest", "3 documents")
    reporter.note("left out a.md: empty")
    assert [(time.step, time.detail, time.cached) for time in reporter.times] == [("ingest", "3 documents", False)]
    assert reporter.times[0].seconds >= 0
    assert reporter.notes == ["left out a.md: empty"]
    assert "3 documents" in stream.getvalue()
    assert "left out" in stream.getvalue()
    assert RecordingReporter(SilentReporter()).times == []
