"""The table of the cluster, and which coordinators agent and clients of each path have."""

from pathlib import Path

import pytest

from bench.cluster_relay import (
    COLUMNS,
    EDGE,
    HOLDER,
    LOCAL,
    NATS,
    REMOTE,
    commands,
    rows,
    wait_until_joined,
)
from bench.load_generator import Figures, LoadFailed, Quantiles
from bench.loads import Load
from bench.relays import Place, Relay, RunningRelay
from bench.results import MIB, Measured, Result

LOAD = Load("two streams", streams=2, events=10, rate=20)


def measured(latency_ms: float = 1.0, **parts_us: float) -> Measured:
    quantiles = Quantiles(latency_ms, 2 * latency_ms, 3 * latency_ms)
    figures = Figures(2, 20, 0.5, 20, 2, quantiles, quantiles, 0, "")
    return Measured(sum(parts_us.values()), 40 * MIB, 42 * MIB, figures, parts_us)


def parts(holder: float, edge: float, nats: float, latency_ms: float = 1.0) -> Measured:
    return measured(latency_ms, **{HOLDER: holder, EDGE: edge, NATS: nats})


def table(rounds: dict[str, list[Measured]], expected: int) -> dict[str, dict[str, str]]:
    found = rows(Result(LOAD, rounds, expected))
    return {row[1]: dict(zip(COLUMNS, row, strict=True)) for row in found}


def test_each_process_is_compared_with_all_of_the_local_path_round_by_round() -> None:
    found = table(
        {
            "local": [parts(80, 10, 10), parts(180, 10, 10)],
            "remote": [parts(100, 90, 60, 3), parts(200, 160, 40, 5)],
        },
        2,
    )
    remote = found["remote"]
    assert remote["CPU ÷ local"] == "2.25 (2.00–2.50)"
    assert remote[f"{HOLDER} ÷ local"] == "1.00 (1.00–1.00)"
    assert remote[f"{EDGE} ÷ local"] == "0.85 (0.80–0.90)"
    assert remote[f"{NATS} ÷ local"] == "0.40 (0.20–0.60)"
    assert remote["p50 ÷ local"] == "4.00 (3.00–5.00)"
    assert found["local"]["CPU ÷ local"] == ""
    assert found["local"][f"{EDGE} ÷ local"] == "0.08 (0.05–0.10)"


def test_one_coordinator_has_no_parts() -> None:
    found = table({"coordinator": [measured(relay=60)], "local": [parts(80, 10, 10)]}, 1)
    assert found["coordinator"]["CPU ÷ local"] == "0.60"
    assert found["coordinator"][f"{HOLDER} ÷ local"] == ""


def test_without_a_local_path_there_are_no_ratios() -> None:
    found = table({"local": [], "remote": [parts(100, 90, 60)]}, 1)
    assert found["local"]["CPU µs"] == "failed"
    assert found["remote"]["CPU µs"] == "250"
    assert found["remote"]["CPU ÷ local"] == found["remote"][f"{NATS} ÷ local"] == ""


@pytest.mark.parametrize("relay", [LOCAL, REMOTE], ids=lambda relay: relay.name)
def test_clients_dial_the_coordinator_of_the_agent_only_on_the_local_path(
    relay: Relay, tmp_path: Path
) -> None:
    place = Place(tmp_path, servers=[1], coordinator=0, port=4000, streams=2)
    holder, edge, nats, _agent = commands(relay, place, 5000, 6000)
    of_agent, of_clients = (4000, 4000) if relay is LOCAL else (5000, 4000)
    assert f"--port={of_agent}" in holder
    assert f"--port={of_clients}" in (holder if relay is LOCAL else edge)
    assert f'url = "ws://127.0.0.1:{of_agent}/' in (tmp_path / "agent.toml").read_text()
    assert nats[-1] == "6000"
    assert "--cluster=nats://127.0.0.1:6000" in holder
    assert "--cluster=nats://127.0.0.1:6000" in edge


def test_a_cluster_whose_process_exits_fails_and_prints_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, servers=[1], coordinator=0, port=4000, streams=2)
    running = RunningRelay(place, ["sh", "-c", "echo no such option"])
    try:
        with pytest.raises(LoadFailed):
            wait_until_joined(running)
    finally:
        running.stop()
    assert "no such option" in capsys.readouterr().err
