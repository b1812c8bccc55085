"""Draws how fleets come back: connections per second over time, one panel for each outage.

Colours of middle brightness and no background: readable on white and on black.
"""

import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from msgspec import Struct

from bench.reconnect_simulation import Course, Outage, peak_per_s

COLUMNS: Final = 3
PANEL_WIDTH: Final = 330
PANEL_HEIGHT: Final = 190
PLOT_LEFT: Final = 50
PLOT_TOP: Final = 42
PLOT_WIDTH: Final = 262
PLOT_HEIGHT: Final = 110
LEGEND_HEIGHT: Final = 34

_STYLE: Final = (
    "text{font:11px sans-serif;fill:#757d87}.title{font-weight:bold;font-size:12px}"
    ".end{text-anchor:end}.middle{text-anchor:middle}"
    ".bars{fill:#3b82f6}.dials{fill:#8b949e;fill-opacity:.4}"
    ".axis{stroke:#757d87;fill:none}.mean{stroke:#2e9e4f;stroke-width:1.5}"
    ".limit{stroke:#e0493f;stroke-width:1.5;stroke-dasharray:5 3}"
)


class _Scale(Struct, frozen=True):
    """From seconds and connections per second to the plot's own coordinates."""

    first_s: int
    last_s: int
    top_per_s: float

    def x(self, second: float) -> float:
        share = (second - self.first_s) / (self.last_s - self.first_s)
        return PLOT_LEFT + PLOT_WIDTH * share

    def y(self, per_s: float) -> float:
        """What is higher than the plot is cut off at its top."""
        return PLOT_TOP + PLOT_HEIGHT * (1 - min(1.0, per_s / self.top_per_s))


def draw(courses: Sequence[tuple[Outage, Course]]) -> str:
    """The whole picture, as an SVG file."""
    width = COLUMNS * PANEL_WIDTH
    height = LEGEND_HEIGHT + math.ceil(len(courses) / COLUMNS) * PANEL_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Connections per second after a coordinator was away</title>",
        f"<style>{_STYLE}</style>",
        _legend(),
    ]
    for number, (outage, course) in enumerate(courses):
        row, column = divmod(number, COLUMNS)
        left, top = column * PANEL_WIDTH, LEGEND_HEIGHT + row * PANEL_HEIGHT
        lines += [f'<g transform="translate({left} {top})">', panel(outage, course), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def panel(outage: Outage, course: Course) -> str:
    """One outage, without its place in the picture."""
    mean = course.mean_per_s
    peak = peak_per_s(course.connections)
    scale = _scale(outage, course)
    return "\n".join(
        [
            _text(PLOT_LEFT, 16, outage.name, "title"),
            _text(PLOT_LEFT, 32, f"mean {mean:,.0f}/s, peak {peak:,}/s: {peak / mean:.1f} times"),
            _steps(course.dials, scale, "dials"),
            _steps(course.connections, scale, "bars"),
            _level(scale, mean, "mean"),
            _level(scale, 3 * mean, "limit"),
            _axes(scale),
        ]
    )


def _scale(outage: Outage, course: Course) -> _Scale:
    """The time away gets at most as much room as the time of coming back."""
    last_s = math.floor(course.connections[-1]) + 1
    first_s = max(0, math.floor(2 * outage.back_s - last_s))
    highest = max(3 * course.mean_per_s, *_per_second(course.connections, 0, last_s))
    return _Scale(first_s, last_s, 1.08 * highest)


def _per_second(moments: Sequence[float], first_s: int, last_s: int) -> list[int]:
    counts = [0] * (last_s - first_s)
    for moment in moments:
        if moment >= first_s:
            counts[math.floor(moment) - first_s] += 1
    return counts


def _steps(moments: Sequence[float], scale: _Scale, style: str) -> str:
    counts = _per_second(moments, scale.first_s, scale.last_s)
    corners = [f"M{_number(scale.x(scale.first_s))} {_number(scale.y(0))}"]
    for number, count in enumerate(counts, scale.first_s + 1):
        corners.append(f"V{_number(scale.y(count))}H{_number(scale.x(number))}")
    corners.append(f"V{_number(scale.y(0))}Z")
    return f'<path class="{style}" d="{"".join(corners)}"/>'


def _level(scale: _Scale, per_s: float, style: str) -> str:
    y = _number(scale.y(per_s))
    return f'<path class="{style}" d="M{PLOT_LEFT} {y}h{PLOT_WIDTH}"/>'


def _axes(scale: _Scale) -> str:
    bottom = PLOT_TOP + PLOT_HEIGHT
    return "\n".join(
        [
            f'<path class="axis" d="M{PLOT_LEFT} {PLOT_TOP}v{PLOT_HEIGHT}h{PLOT_WIDTH}"/>',
            *(
                _text(PLOT_LEFT - 5, scale.y(per_s) + 4, f"{per_s:,}", "end")
                for per_s in _ticks(0, scale.top_per_s, 4)
            ),
            *(
                _text(scale.x(second), bottom + 14, f"{second} s", "middle")
                for second in _ticks(scale.first_s, scale.last_s, 6)
            ),
        ]
    )


def _ticks(low: float, high: float, at_most: int) -> range:
    """Round whole numbers from `low` to `high`."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step < at_most)
    return range(math.ceil(low / step) * step, math.floor(high) + 1, step)


def _legend() -> str:
    return "\n".join(
        [
            f'<path class="bars" d="M{PLOT_LEFT} 12h14v10h-14z"/>',
            _text(70, 21, "connections per second, over seconds since the links ended"),
            '<path class="dials" d="M420 12h14v10h-14z"/>',
            _text(440, 21, "all dials, answered or not (cut off at the top)"),
            '<path class="mean" d="M715 17h24"/>',
            _text(745, 21, "mean"),
            '<path class="limit" d="M795 17h24"/>',
            _text(825, 21, "three times the mean"),
        ]
    )


def _text(x: float, y: float, text: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f'<text x="{_number(x)}" y="{_number(y)}"{attribute}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
