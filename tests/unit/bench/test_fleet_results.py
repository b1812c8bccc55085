"""What the benchmark of a large fleet reads and prints."""

from pathlib import Path

from bench.document import FLEET_COMMAND, Machine, write_fleet
from bench.fleet_coordinators import known_agents, parse_metrics
from bench.fleet_results import COLUMNS, FleetResult, ProcessUsage, Usage, facts, rows
from bench.results import MIB
from provider_agent.coordinator.http.metrics import Gauges, Metrics

RESULT = FleetResult(
    agents=1000,
    coordinators=2,
    streams=32,
    rate=20.0,
    processes=[
        ProcessUsage(
            name="1",
            agents=510,
            start_cpu_s=0.75,
            empty_bytes=56 * MIB,
            idle=Usage(0.015, 60 * MIB),
            busy=Usage(0.25, 64 * MIB),
        ),
        ProcessUsage(
            name="NATS",
            agents=None,
            start_cpu_s=0.02,
            empty_bytes=14 * MIB,
            idle=Usage(0.001, 15 * MIB),
            busy=Usage(0.04, 16 * MIB),
        ),
    ],
    connected_s=1.25,
    known_s=2.5,
    killed_agents=490,
    moved_s=1.5,
    converged_s=6.5,
    answered=1200,
    failed=0,
    failed_by_kill=7,
)


def test_the_gauges_of_a_coordinator_are_read_from_its_metrics() -> None:
    gauges = Gauges(
        agents=250,
        models=3,
        capacity=0,
        jobs=0,
        detached_sessions=0,
        queued=0,
        running_requests=0,
        held_request_bytes=0,
        connections=0,
        unauthenticated_connections=0,
        evicted_connections=0,
        refused_connections=0,
        retried_jobs=0,
        cluster_coordinators=3,
        cluster_agents=750,
    )
    found = parse_metrics(Metrics(lambda: gauges).render().decode())
    assert found["cluster_coordinators"] == 3
    assert known_agents(found) == 1000


def test_labeled_and_other_metrics_are_left_out() -> None:
    text = '# HELP coordinator_agents x\ncoordinator_requests_total{code="ok"} 1.0\nprocess_x 2.0\n'
    assert parse_metrics(text + "coordinator_agents 4.0\n") == {"agents": 4.0}


def test_each_process_has_a_row() -> None:
    first, nats = (dict(zip(COLUMNS, row, strict=True)) for row in rows(RESULT))
    assert first["process"] == "coordinator 1"
    assert first["own agents"] == "510"
    assert [first[name] for name in COLUMNS[2:]] == ["56", "60", "64", "0.75", "1.5%", "25.0%"]
    assert (nats["process"], nats["own agents"]) == ("NATS", "–")


def test_times_and_requests_are_sentences() -> None:
    fleet, start, kill = facts(RESULT)
    assert "1,200 requests answered, 0 failed" in fleet
    assert "connected after 1.2 s, known to every coordinator after 2.5 s" in start
    assert "its 490 agents connected again after 1.5 s" in kill
    assert "after 6.5 s; 7 requests failed" in kill


def test_the_documented_table_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    begin = f"before\n<!-- fleet table: written by {FLEET_COMMAND} -->\n"
    end = "<!-- end of the fleet table -->\nafter\n"
    page.write_text(f"{begin}old\n{end}")
    write_fleet(Machine(2, 0.25, "3.11.7", "6.1", "May 2026"), RESULT, tmp_path)
    text = page.read_text()
    assert text.startswith(f"{begin}\n2 cores, loopback, Python 3.11.7; May 2026.")
    assert "\n| coordinator 1 | 510 | 56 | 60 | 64 | 0.75 | 1.5% | 25.0% |\n" in text
    assert text.endswith(f"requests failed.\n\n{end}")
    assert "old" not in text
