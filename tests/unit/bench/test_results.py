"""The table of the benchmark."""

from bench.load_generator import Figures, Quantiles
from bench.loads import Load
from bench.results import COLUMNS, MIB, Measured, Result, failures, markdown, rows

LOAD = Load("two streams", streams=2, events=10, rate=0, ping_pong=True)


def measured(cpu_us: float, seconds: float = 1.0, errors: int = 0) -> Measured:
    quantiles = Quantiles(0.5, 1.5, 2.5)
    figures = Figures(2, 20, seconds, 20, 2, quantiles, quantiles, errors, "")
    return Measured(cpu_us, 40 * MIB, 42 * MIB, figures)


def table(load: Load = LOAD, /, **rounds: list[Measured]) -> dict[str, dict[str, str]]:
    found = rows(Result(load, rounds, 3))
    return {row[1]: dict(zip(COLUMNS, row, strict=True)) for row in found}


def test_a_ratio_is_the_median_of_the_ratios_of_single_rounds() -> None:
    found = table(
        obvious=[measured(10), measured(100), measured(1000)],
        agent=[measured(20), measured(150), measured(500)],
    )
    assert found["agent"]["CPU ÷ obvious"] == "1.50 (0.50–2.00)"
    assert found["obvious"]["CPU ÷ obvious"] == ""
    assert found["agent"]["CPU ÷ nginx"] == ""


def test_rates_and_memory_are_those_of_the_load() -> None:
    found = table(
        obvious=[measured(1, seconds=2)] * 3,
        agent=[measured(1, seconds=1)] * 3,
    )
    assert found["agent"]["events/s"] == "2.00 (2.00–2.00)"
    assert found["agent"]["idle MB"] == "40"
    assert found["agent"]["KB/stream"] == "1024"
    assert found["agent"]["p99.9 ms"] == "2.50"


def test_at_a_fixed_rate_the_share_of_that_rate_is_shown() -> None:
    paced = Load("two streams", streams=2, events=10, rate=20)
    found = table(paced, agent=[measured(1, seconds=1)] * 3)
    assert found["agent"]["events/s"] == "50%"


def test_a_relay_that_failed_has_no_figures_and_no_ratios_to_it() -> None:
    rounds = {"obvious": [measured(1)], "agent": [measured(1)] * 3}
    found = table(**rounds)
    assert set(list(found["obvious"].values())[2:]) == {"failed"}
    assert found["agent"]["CPU ÷ obvious"] == ""
    assert failures(Result(LOAD, rounds, 3))


def test_a_failed_job_is_a_failure() -> None:
    assert failures(Result(LOAD, {"agent": [measured(1, errors=1)]}, 1))
    assert not failures(Result(LOAD, {"agent": [measured(1)]}, 1))


def test_the_documented_table_has_a_row_for_each_relay() -> None:
    lines = markdown([Result(LOAD, {"obvious": [measured(1)], "agent": [measured(1)]}, 1)])
    head, rule, *body = lines.splitlines()
    assert head.startswith("| load | relay | CPU ÷ obvious |")
    assert rule.startswith("| --- | --- | ---: |")
    assert [line.split("|")[2].strip() for line in body] == ["obvious", "agent"]
    assert {line.count("|") for line in (head, rule, *body)} == {len(COLUMNS) + 1}
