"""Draws line charts as SVG, readable on light and on dark pages.

Lines differ by their dashes too, not only by their colors. The texts of a chart contain all its
values, for readers who cannot see it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final

from msgspec import Struct

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 15, 60, 40
"""The panel's margins, in pixels; legend and title are above it."""
_INSET = 12
"""From the edges of the panel to the first and the last value."""

_STYLE: Final = (
    "text{font:12px sans-serif;fill:#757d87}.title{font-weight:bold}.end{text-anchor:end}"
    ".middle{text-anchor:middle}.axis{stroke:#757d87;fill:none}"
    ".grid{stroke:#757d87;stroke-opacity:.25}.line{stroke-width:2;fill:none}"
)
_LINES: Final = (
    ("#3b82f6", "none"),
    ("#d97706", "7 3"),
    ("#2e9e4f", "2 3"),
)
"""Color and dashes of each line; the colors have enough contrast with white and with black."""


class Point(Struct):
    """One value of a line, with its spread.

    Attributes:
        x: number of streams.
        y: the median.
        low: the smallest value.
        high: the largest value.
    """

    x: float
    y: float
    low: float
    high: float


class Line(Struct):
    """One line of a panel, with its name in the legend."""

    name: str
    points: list[Point]


class Panel(Struct):
    """One coordinate system; both axes are logarithmic.

    Attributes:
        title: what the values are, with their unit.
        lines: at most three.
        baseline: a value to compare with, drawn as a line.
    """

    title: str
    lines: list[Line]
    baseline: float | None = None


def chart(title: str, panels: Sequence[Panel]) -> str:
    """Draw panels side by side.

    Args:
        title: what the chart shows; the text alternative starts with it.
        panels: each with at least one value.
    """
    width = _WIDTH * len(panels)
    drawn = "".join(_panel(panel, index * _WIDTH) for index, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" '
        f'viewBox="0 0 {width} {_HEIGHT}" role="img">\n'
        f"<title>{escape(title)}</title>\n<desc>{escape(_values(panels))}</desc>\n"
        f"<style>{_STYLE}</style>\n{drawn}</svg>\n"
    )


def _values(panels: Iterable[Panel]) -> str:
    return " ".join(
        f"{panel.title}, {line.name}: "
        + ", ".join(f"{point.y:.2f} at {point.x:,.0f}" for point in line.points)
        + "."
        for panel in panels
        for line in panel.lines
    )


def _panel(panel: Panel, left: int) -> str:
    points = [point for line in panel.lines for point in line.points]
    ticks = sorted({point.x for point in points})
    values = [value for point in points for value in (point.low, point.high)]
    values += [] if panel.baseline is None else [panel.baseline]
    levels = _levels(min(values), max(values))
    x = _scale(ticks[0], ticks[-1], _LEFT + _INSET, _WIDTH - _RIGHT - _INSET)
    y = _scale(levels[0], levels[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text x="{_LEFT}" y="16" class="title">{escape(panel.title)}</text>']
    for level in levels:
        kind = "axis" if level == panel.baseline else "grid"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y(level)}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(level) + 4}" class="end">{level:g}</text>')
    for tick in ticks:
        at = f'x="{x(tick)}" y="{_HEIGHT - _BOTTOM + 16}"'
        parts.append(f'<text {at} class="middle">{tick:,.0f}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" class="middle">streams</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    for index, line in enumerate(panel.lines):
        legend = _LEFT + index * (_WIDTH - _LEFT) // len(panel.lines)
        parts += _legend(line.name, _LINES[index], legend)
        parts += _line(line, _LINES[index], x, y)
    return f'<g transform="translate({left} 0)">\n' + "\n".join(parts) + "\n</g>\n"


def _legend(name: str, style: tuple[str, str], at: int) -> Iterable[str]:
    yield f'<path {_stroke(*style)} d="M{at} 34h24"/>'
    yield f'<text x="{at + 30}" y="38">{escape(name)}</text>'


def _line(
    line: Line, style: tuple[str, str], x: Callable[[float], float], y: Callable[[float], float]
) -> Iterable[str]:
    color, _ = style
    if line.points:
        path = "L".join(f"{x(point.x)} {y(point.y)}" for point in line.points)
        yield f'<path {_stroke(*style)} d="M{path}"/>'
    for point in line.points:
        yield f'<circle cx="{x(point.x)}" cy="{y(point.y)}" r="3" fill="{color}"/>'
        if point.low < point.high:
            spread = f"M{x(point.x)} {y(point.low)}V{y(point.high)}"
            yield f'<path {_stroke(color)} d="{spread}"/>'


def _stroke(color: str, dashes: str = "none") -> str:
    return f'class="line" stroke="{color}" stroke-dasharray="{dashes}"'


def _levels(low: float, high: float) -> list[float]:
    """Round values from at most `low` to at least `high`: powers of 2, or of 10 for wide ranges."""
    base = 2 if high / low < 100 else 10
    first, last = math.floor(math.log(low, base)), math.ceil(math.log(high, base))
    return [float(base) ** exponent for exponent in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Map logarithms of `low` to `high` to coordinates from `start` to `end`."""

    def place(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if high > low else 0.5
        return round(start + share * (end - start), 1)

    return place
