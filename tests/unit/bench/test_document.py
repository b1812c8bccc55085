"""What the benchmark writes into docs/."""

import json
from pathlib import Path

import pytest

from bench.document import (
    FLEET_COMMAND,
    Machine,
    write_cluster,
    write_dialects,
    write_relays,
    write_rest,
)
from bench.load_generator import Figures, Quantiles
from bench.loads import Load
from bench.results import MIB, Measured, Result

MACHINE = Machine(2, 0.25, "3.11.7", "6.1", "May 2026")

PAGE = """# Performance
before
<!-- relay table: written by make bench ARGS=--write-docs -->
old
<!-- end of the relay table -->
between
<!-- rest table: written by make bench ARGS=--write-docs -->
old
<!-- end of the rest table -->
after
"""


def measured(cpu_us: float, latency_ms: float = 1.0) -> list[Measured]:
    quantiles = Quantiles(latency_ms, 2 * latency_ms, 3 * latency_ms)
    figures = Figures(2, 20, 1.0, 20, 2, quantiles, quantiles, 0, "")
    return [Measured(cpu_us, 40 * MIB, 42 * MIB, figures)]


def relays(load: Load) -> Result:
    found = {"obvious": measured(80), "agent": measured(60), "nginx": measured(20)}
    return Result(load, found, 1)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance.md").write_text(PAGE)
    return tmp_path


def lines_between(text: str, before: str, after: str) -> list[str]:
    return text.partition(before)[2].partition(after)[0].split("\n")


def test_the_table_of_relays_replaces_only_the_old_one(docs: Path) -> None:
    write_relays(MACHINE, [relays(Load("8 × 50/s", 8))], docs)
    text = (docs / "performance.md").read_text()
    table = lines_between(text, "-->\n", "<!-- end of the relay")
    assert table[1].endswith("](performance/cpu.svg)")
    assert table[5].startswith("2 cores, loopback, Python 3.11.7; May 2026.")
    assert table[9].startswith("| 8 × 50/s | obvious |  | 4.00 |")
    rest_of_page = text.replace("\n".join(table), "old\n")
    assert rest_of_page == PAGE


def test_pictures_show_the_paced_loads_of_one_server_without_tls(docs: Path) -> None:
    loads = [
        Load("8 × 50/s", 8),
        Load("256 × 50/s", 256),
        Load("256 × 50/s, 8 servers", 256, backends=8),
        Load("256 × 50/s, TLS", 256, tls=True),
        Load("flat out", 32, rate=0),
    ]
    write_relays(MACHINE, [relays(load) for load in loads], docs)
    cpu = (docs / "performance" / "cpu.svg").read_text()
    assert "agent: 3.00 at 8, 3.00 at 256. " in cpu
    latency = (docs / "performance" / "latency.svg").read_text()
    assert "nginx: 2.00 at 8, 2.00 at 256." in latency


def test_the_json_has_all_figures_of_all_rounds(docs: Path) -> None:
    write_relays(MACHINE, [relays(Load("8 × 50/s", 8))], docs)
    content = json.loads((docs / "performance" / "relays.json").read_text())
    assert content["machine"]["cores"] == 2
    (result,) = content["results"]
    assert result["rounds"]["agent"][0]["cpu_us"] == 60
    assert result["rounds"]["agent"][0]["figures"]["latency_ms"]["p99"] == 2


def test_without_nginx_the_table_is_written_but_no_ratio_to_it_is_drawn(docs: Path) -> None:
    result = relays(Load("8 × 50/s", 8))
    del result.rounds["nginx"]
    write_relays(MACHINE, [result], docs)
    assert "| agent | 0.75 |" in (docs / "performance.md").read_text()
    assert not (docs / "performance" / "cpu.svg").exists()
    assert (docs / "performance" / "latency.svg").exists()


def test_the_rest_is_compared_by_streams_and_processors(docs: Path) -> None:
    results = [
        Result(
            Load(f"{streams}, {busy}", streams, busy=busy),
            {"does not rest": measured(40, 0.5), "rests": measured(40 / divisor, 1.5)},
            1,
        )
        for streams, divisor in ((1, 1), (64, 2))
        for busy in (False, True)
    ]
    write_rest(MACHINE, results, docs)
    text = (docs / "performance.md").read_text()
    assert "| 64 | busy | 0.50 | 0.50 | 1.50 | 1.00 | 3.00 |" in text
    picture = (docs / "performance" / "rest.svg").read_text()
    assert "processors busy: 1.00 at 1, 0.50 at 64." in picture
    assert len(json.loads((docs / "performance" / "rest.json").read_text())["results"]) == 4


def test_the_dialects_have_a_table(docs: Path) -> None:
    (docs / "performance.md").write_text(PAGE.replace("rest table", "dialect table"))
    found = {
        "agent": measured(40, 0.5),
        "agent, usepod": measured(50, 0.5),
        "nginx": measured(80, 0.5),
    }
    write_dialects(MACHINE, [Result(Load("8 × 50/s", 8), found, 1)], docs)
    text = (docs / "performance.md").read_text()
    assert "\n|  | agent, usepod | 0.62 | 1.25 | 50 |" in text
    assert len(json.loads((docs / "performance" / "dialects.json").read_text())["results"]) == 1


def test_the_cluster_has_a_table_in_another_page(docs: Path) -> None:
    (docs / "scaling.md").write_text(PAGE.replace("rest table", "cluster table"))
    found = {"local": measured(40, 0.5), "remote": measured(90, 1.5)}
    write_cluster(MACHINE, [Result(Load("8 × 50/s", 8), found, 1)], docs)
    text = (docs / "scaling.md").read_text()
    assert "\n|  | remote | 2.25 |" in text
    assert text.count("old") == 1
    assert (docs / "performance.md").read_text() == PAGE
    assert len(json.loads((docs / "performance" / "cluster.json").read_text())["results"]) == 1


@pytest.mark.parametrize(
    ("name", "page_name", "command"),
    [
        ("relay", "performance.md", "make bench ARGS=--write-docs"),
        ("rest", "performance.md", "make bench ARGS=--write-docs"),
        ("dialect", "performance.md", "make bench ARGS=--write-docs"),
        ("cluster", "scaling.md", "make bench ARGS=--write-docs"),
        ("fleet", "scaling.md", FLEET_COMMAND),
    ],
)
def test_the_documentation_has_a_place_for_each_table(
    name: str, page_name: str, command: str
) -> None:
    page = (Path(__file__).parents[3] / "docs" / page_name).read_text()
    begin = f"<!-- {name} table: written by {command} -->\n"
    assert page.count(begin) == 1
    assert f"<!-- end of the {name} table -->\n" in page.partition(begin)[2]
