"""The pictures of the benchmark."""

import re
from xml.etree import ElementTree

import pytest

from bench.pictures import Line, Panel, Point, chart

SVG = "{http://www.w3.org/2000/svg}"

AGENT = Line("agent", [Point(1, 6, 5, 8), Point(32, 3, 2.9, 3.1), Point(1000, 0.9, 0.9, 0.9)])
OBVIOUS = Line("A & B", [Point(1, 4, 4, 4), Point(32, 4, 4, 4)])


def drawn(*panels: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(chart("CPU < time", panels))


def texts(svg: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in svg.iter(f"{SVG}text")]


def circles(svg: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in svg.iter(f"{SVG}circle")]


def test_the_texts_contain_title_names_and_all_values() -> None:
    svg = drawn(Panel("ratio", [AGENT, OBVIOUS]))
    assert svg.findtext(f"{SVG}title") == "CPU < time"
    assert svg.findtext(f"{SVG}desc") == (
        "ratio, agent: 6.00 at 1, 3.00 at 32, 0.90 at 1,000. ratio, A & B: 4.00 at 1, 4.00 at 32."
    )
    assert {"ratio", "agent", "A & B", "streams", "1", "32", "1,000"} <= set(texts(svg))


def test_more_streams_are_further_right_and_larger_values_higher() -> None:
    points = circles(drawn(Panel("ratio", [AGENT])))
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)


def test_every_value_and_its_spread_is_inside_the_axes() -> None:
    svg = chart("ratio", [Panel("ratio", [AGENT, OBVIOUS])])
    bottom, top = 210.0, 60.0
    spreads = re.findall(r'd="M[\d.]+ ([\d.]+)V([\d.]+)"', svg)
    assert len(spreads) == 2
    ys = [float(one) for pair in spreads for one in pair]
    ys += [y for _, y in circles(ElementTree.fromstring(svg))]
    assert top <= min(ys)
    assert max(ys) <= bottom


def test_a_baseline_is_an_axis_even_below_all_values() -> None:
    svg = drawn(Panel("ratio", [OBVIOUS], baseline=1))
    assert sum(one.get("class") == "axis" for one in svg.iter(f"{SVG}path")) == 2
    assert "1" in texts(svg)


@pytest.mark.parametrize(
    ("low", "high", "levels"),
    [(0.5, 3, ["0.5", "1", "2", "4"]), (0.2, 170, ["0.1", "1", "10", "100", "1000"])],
)
def test_wide_ranges_have_powers_of_ten(low: float, high: float, levels: list[str]) -> None:
    line = Line("agent", [Point(50, low, low, low), Point(60, high, high, high)])
    assert [text for text in texts(drawn(Panel("ms", [line]))) if text in levels] == levels


def test_panels_are_side_by_side_and_lines_look_different() -> None:
    empty = Line("no values", [])
    svg = drawn(Panel("p50", [AGENT, empty, OBVIOUS]), Panel("p99", [AGENT]))
    assert svg.attrib["viewBox"] == "0 0 800 250"
    assert [one.get("transform") for one in svg.iter(f"{SVG}g")] == [
        "translate(0 0)",
        "translate(400 0)",
    ]
    dashes = {one.get("stroke-dasharray") for one in svg.iter(f"{SVG}path")} - {None, "none"}
    assert len(dashes) == 2
