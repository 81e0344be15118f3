"""Charts as inline SVG, drawn in Python: no script, no font, colours from the page's own variables.

Every chart is about as wide as a phone, so its text keeps its size there; wide screens show several side by side.
Coordinates are rounded to a tenth of a pixel: equal data give equal bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from flows.report.words import number, percent, points, visible

WIDTH = 340.0


class Interval(NamedTuple):
    """A lower and an upper end."""

    lower: float
    upper: float


class ScoreRow(NamedTuple):
    """One model on one suite; everything None where nothing could be scored."""

    label: str
    score: float | None
    interval: Interval | None


class TimePoint(NamedTuple):
    """A value at a time, in seconds since the epoch; `kind` is how its dot is drawn."""

    at: float
    value: float
    interval: Interval | None
    kind: str


class TimeSeries(NamedTuple):
    """Values over time, the oldest first, and the value that they are held against, if there is one."""

    name: str
    points: tuple[TimePoint, ...]
    reference: float | None


class OutcomeRow(NamedTuple):
    """What one gate said over time: (seconds since the epoch, `pass`, `fail` or `inconclusive`)."""

    label: str
    marks: tuple[tuple[float, str], ...]


class Scale(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Return the pixel of a value; values outside the domain stay at its ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers that enclose [low, high], steps of 1, 2, 2.5 or 5 times a power of ten."""
    largest = max(abs(low), abs(high))
    flat = high - low <= max(1e-6 * largest, 1e-12)
    span = max(largest, 1.0) if flat else high - low
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def curve(pairs: Sequence[tuple[float, float]], *, name: str, x_name: str = "step") -> Markup:
    """Draw values over steps, such as a loss. What is not finite is left out; an empty chart says so."""
    known = sorted({x: y for x, y in pairs if math.isfinite(x) and math.isfinite(y)}.items())
    if not known:
        return Markup('<p class="quiet">{} was not logged.</p>').format(name)
    height, left, right, top, bottom = 200.0, 44.0, 14.0, 14.0, 34.0
    y_ticks = ticks(min(y for _, y in known), max(y for _, y in known))
    x_ticks = ticks(0, max(x for x, _ in known))
    x = Scale(0, max(known[-1][0], 1e-9), left, WIDTH - right)
    y = Scale(y_ticks[0], y_ticks[-1], height - bottom, top)
    line = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in known)
    floor, first, last = height - bottom, x.at(known[0][0]), x.at(known[-1][0])
    parts = [
        *(_horizontal(y.at(tick), left, WIDTH - right, number(tick)) for tick in y_ticks),
        *(_below(x.at(tick), floor + 16, number(tick)) for tick in x_ticks if tick <= x.high * 1.0001),
        _text((left + WIDTH - right) / 2, height - 3, x_name, "middle", "faint"),
        f'<polygon class="area" points="{first:.1f},{floor:.1f} {line} {last:.1f},{floor:.1f}"/>',
        f'<polyline class="line" points="{line}"/>',
        f'<circle class="dot" cx="{last:.1f}" cy="{y.at(known[-1][1]):.1f}" r="3.2"/>',
    ]
    summary = f"{name} over {x_name}s, from {number(known[0][1])} to {number(known[-1][1])}"
    return _svg(parts, height, summary)


def score_chart(rows: Sequence[ScoreRow], *, name: str) -> Markup:
    """Draw the score of each model as a dot with its interval, on a scale from 0 to 100 %."""
    row_height, top = 28.0, 8.0
    height = top + row_height * len(rows) + 22
    left, right = 84.0, 50.0
    x = Scale(0, 1, left, WIDTH - right)
    floor = top + row_height * len(rows)
    parts = [_vertical(x.at(tick), top, floor, percent(tick)) for tick in (0, 0.25, 0.5, 0.75, 1)]
    for index, row in enumerate(rows):
        middle = top + row_height * (index + 0.5)
        last = index == len(rows) - 1
        parts.append(_text(left - 12, middle + 4, _fitting(row.label), "end", "strong" if last else ""))
        parts += _score_marks(row, x, middle, last=last)
    told = ", ".join(f"{row.label} {percent(row.score)}" for row in rows)
    return _svg(parts, height, f"{name}: {told}")


def _score_marks(row: ScoreRow, x: Scale, middle: float, *, last: bool) -> list[str]:
    if row.score is None:
        return [_text(x.at(0) + 6, middle + 4, "unscored", "start", "faint")]
    marks = [_text(WIDTH - 2, middle + 4, percent(row.score), "end", "strong" if last else "")]
    if row.interval is not None:
        marks.append(_whisker(x, row.interval, middle))
    kind = "dot" if last else "dot hollow"
    marks.append(f'<circle class="{kind}" cx="{x.at(row.score):.1f}" cy="{middle:.1f}" r="4"/>')
    return marks


def time_chart(series: TimeSeries, *, as_share: bool) -> Markup:
    """Draw values over time: shares on a scale from 0 to 100 %, anything else from 0 to what there is."""
    if not series.points:
        return Markup('<p class="quiet">nothing yet</p>')
    height, left, right, top, bottom = 180.0, 44.0, 40.0, 14.0, 30.0
    write = percent if as_share else number
    marks = [0, 0.25, 0.5, 0.75, 1] if as_share else ticks(0, max(point.value for point in series.points))
    x = _time_scale([point.at for point in series.points], left + 8, WIDTH - right)
    y = Scale(marks[0], marks[-1], height - bottom, top)
    parts = [_horizontal(y.at(mark), left, WIDTH - right, write(mark)) for mark in marks]
    parts += _dates(x, height - bottom + 18)
    if series.reference is not None:
        level = y.at(series.reference)
        parts.append(f'<line class="threshold" x1="{left}" x2="{WIDTH - right}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(_text(WIDTH - right + 4, level + 4, "base", "start", "faint"))
    line = " ".join(f"{x.at(point.at):.1f},{y.at(point.value):.1f}" for point in series.points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for point in series.points:
        middle = x.at(point.at)
        if point.interval is not None:
            low, high = y.at(point.interval.lower), y.at(point.interval.upper)
            parts.append(f'<path class="whisker" d="M{middle - 4:.1f} {low:.1f}h8m-4 0V{high:.1f}m-4 0h8"/>')
        parts.append(f'<circle class="{point.kind}" cx="{middle:.1f}" cy="{y.at(point.value):.1f}" r="4"/>')
    told = ", ".join(f"{write(point.value)} on {_date(point.at)}" for point in series.points)
    return _svg(parts, height, f"{series.name}: {told}")


def outcome_chart(rows: Sequence[OutcomeRow]) -> Markup:
    """Draw what gates said over time, a row each: a dot for PASS, a cross for FAIL, a ring for INCONCLUSIVE."""
    times = [at for row in rows for at, _ in row.marks]
    if not times:
        return Markup('<p class="quiet">nothing yet</p>')
    row_height, top, left = 28.0, 6.0, 90.0
    floor = top + row_height * len(rows)
    x = _time_scale(times, left + 8, WIDTH - 24)
    parts = _dates(x, floor + 16)
    for index, row in enumerate(rows):
        middle = top + row_height * (index + 0.5)
        rule = f'<line class="grid" x1="{left:.1f}" x2="{WIDTH:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
        parts += [_text(left - 12, middle + 4, _fitting(row.label), "end", ""), rule]
        parts += [_outcome_mark(x.at(at), middle, outcome) for at, outcome in row.marks]
    told = "; ".join(f"{row.label}: {', '.join(outcome for _, outcome in row.marks)}" for row in rows)
    return _svg(parts, floor + 22, told)


def _outcome_mark(x: float, y: float, outcome: str) -> str:
    if outcome == "fail":
        return f'<path class="outcome fail" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    kind = "pass" if outcome == "pass" else "inconclusive"
    return f'<circle class="outcome {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _time_scale(times: Sequence[float], start: float, stop: float) -> Scale:
    low, high = min(times), max(times)
    # A single moment stands in the middle.
    return Scale(low, high, start, stop) if high > low else Scale(low - 1, high + 1, start, stop)


def _dates(x: Scale, y: float) -> list[str]:
    first, last = _date(x.low), _date(x.high)
    if first == last:
        return [_below((x.start + x.stop) / 2, y, first)]
    return [_text(x.start - 8, y, first, "start", "faint"), _text(x.stop + 8, y, last, "end", "faint")]


def _date(at: float) -> str:
    return time.strftime("%d %b %Y", time.gmtime(at)).lstrip("0")


def whisker_chart(
    value: float | None, interval: Interval | None, threshold: float, *, as_points: bool, summary: str
) -> Markup:
    """Draw an interval against the threshold that it must clear; the side that passes is shaded.

    Args:
        value: the point estimate.
        interval: its bounds; the chart stays empty without them.
        threshold: where PASS begins.
        as_points: label the axis in points of difference rather than in per cent.
        summary: the text of the chart for those who can't see it.
    """
    if value is None or interval is None:
        return Markup('<p class="quiet">no interval</p>')
    height, floor, edge = 46.0, 28.0, 16.0
    ends = [*interval, value, threshold] + ([0.0] if as_points else [])
    marks = ticks(min(ends), max(ends), 3)
    x = Scale(marks[0], marks[-1], edge, 240 - edge)
    write = points if as_points else percent
    passing = x.at(threshold)
    parts = [
        f'<rect class="passing" x="{passing:.1f}" y="4" width="{240 - edge - passing:.1f}" height="{floor - 4:.1f}"/>',
        f'<line class="axis" x1="{edge}" x2="{240 - edge}" y1="{floor}" y2="{floor}"/>',
        *(_below(x.at(mark), floor + 14, write(mark).removesuffix(".0")) for mark in marks),
        f'<line class="threshold" x1="{passing:.1f}" x2="{passing:.1f}" y1="2" y2="{floor + 3}"/>',
        _whisker(x, interval, 16),
        f'<circle class="dot" cx="{x.at(value):.1f}" cy="16" r="4"/>',
    ]
    return _svg(parts, height, summary, width=240)


def _whisker(x: Scale, interval: Interval, middle: float) -> str:
    low, high = x.at(interval.lower), x.at(interval.upper)
    return (
        f'<path class="whisker" d="M{low:.1f} {middle - 4:.1f}v8m0 -4H{high:.1f}m0 -4v8"/>'
        if high - low >= 1
        else f'<path class="whisker" d="M{low:.1f} {middle - 4:.1f}v8"/>'
    )


def _horizontal(y: float, start: float, stop: float, label: str) -> str:
    rule = f'<line class="grid" x1="{start:.1f}" x2="{stop:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return rule + _text(start - 7, y + 4, label, "end", "faint")


def _vertical(x: float, top: float, bottom: float, label: str) -> str:
    rule = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    return rule + _below(x, bottom + 15, label)


def _below(x: float, y: float, label: str) -> str:
    return _text(x, y, label, "middle", "faint")


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(visible(text))}</text>'


def _fitting(label: str, limit: int = 11) -> str:
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def _svg(parts: Iterable[str], height: float, summary: str, width: float = WIDTH) -> Markup:
    """Wrap the parts, each of which is escaped already."""
    opening = Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">').format(
        f"{width:g}", f"{height:g}", f"{width:g}", f"{height:g}", visible(summary)
    )
    return opening + Markup("".join(parts)) + Markup("</svg>")  # noqa: S704
