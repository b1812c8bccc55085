import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console

from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.cli.status import WATCH_S, watch_states
from provider_agent.agent.cli.status_client import NoAgent
from provider_agent.agent.cli.status_text import status_parts
from provider_agent.agent.link.coordinator_messages import (
    ReceivedNotice,
    Routing,
    UnroutableOffer,
)
from provider_agent.agent.telemetry.job_status import (
    EndedJobStatus,
    MinuteStatus,
    RunningJobStatus,
)
from provider_agent.agent.telemetry.remedies import REMEDIES
from provider_agent.agent.telemetry.rolling_stats import StatsSnapshot
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    LedgerStatus,
    RefusedJobStatus,
    StatusSnapshot,
    Totals,
)
from tests.kit.cli_agent import READY, other_http_server, status_server
from tests.kit.virtual_time import in_virtual_time
from tests.unit.agent.cli.calls import invoke, invoke_with_status_server

MONITORING = (Path(__file__).parents[4] / "docs" / "operations" / "monitoring.md").read_text()


async def test_status_of_a_ready_agent_prints_its_state_and_exits_with_0(runner: CliRunner) -> None:
    async with status_server() as address:
        result = await invoke_with_status_server(runner, address, "status")

    words = [" ".join(line.split()) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert "link connected" in words
    assert "up 1 h 2 min" in words
    assert "last job never" in words
    # Regression: this was "none" while connected, also if an earlier link had been lost.
    assert "last disconnect" not in result.output
    assert words[-1] == "ready"


@pytest.mark.parametrize(
    ("word", "changed", "line"),
    [
        ("compiled", {"compiled": True}, "version 1.2.3, compiled"),
        ("dialect", {"dialect": "usepod"}, "dialect usepod"),
        (
            "last error",
            {"last_error_code": "backend_timeout", "last_error_age_s": 125.0},
            "last error backend_timeout, 2 min 5 s ago",
        ),
    ],
)
async def test_status_shows_some_facts_only_if_they_apply(
    runner: CliRunner, word: str, changed: dict[str, Any], line: str
) -> None:
    outputs = []
    for state in (READY, replace(READY, **changed)):
        async with status_server(state) as address:
            outputs.append((await invoke_with_status_server(runner, address, "status")).output)

    assert word not in outputs[0]
    assert " ".join(outputs[1].split()).count(line) == 1


async def test_status_prints_markup_literally_and_replaces_control_characters(
    runner: CliRunner,
) -> None:
    state = replace(
        READY,
        link="connecting",
        last_disconnect="check [coordinator] token_file\x1b[2J",
        backends=[BackendStatus(id="b", kind="echo", healthy=False, last_error="see [[backends]]")],
    )
    async with status_server(state) as address:
        result = await invoke_with_status_server(runner, address, "status")

    assert result.exit_code == 1
    assert "last disconnect  check [coordinator] token_file\ufffd[2J" in result.output
    assert "see [[backends]]" in result.output
    assert "not ready: not connected: " in result.output


async def test_status_shows_that_the_token_limit_is_used_up(runner: CliRunner) -> None:
    async with status_server(replace(READY, token_limit_wait_s=61.2)) as address:
        result = await invoke_with_status_server(runner, address, "status")

    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "token limit used up; jobs are refused for 1 min 2 s" in lines


async def test_status_shows_that_the_ledger_is_not_written(runner: CliRunner) -> None:
    ledger = LedgerStatus(unwritten=1, problem="it cannot be written: \x1b", problem_age_s=75.0)
    async with status_server(replace(READY, ledger=ledger)) as address:
        result = await invoke_with_status_server(runner, address, "status")

    assert "it cannot be written: \ufffd; first 1 min 15 s ago" in result.output.splitlines()
    assert result.exit_code == 0


async def test_status_shows_why_models_receive_no_jobs(runner: CliRunner) -> None:
    unroutable = [UnroutableOffer("m", "price", "above the limit\x1b[2J")]
    notice = ReceivedNotice(
        code="quota", severity="warning", message="used up", model_id="m", age_s=90.0
    )
    state = replace(
        READY,
        routing=Routing(revision=3, unroutable_count=1, unroutable=unroutable),
        notices=[notice],
    )
    async with status_server(state) as address:
        text = await invoke_with_status_server(runner, address, "status")
        printed = await invoke_with_status_server(runner, address, "status", "--json")

    lines = [" ".join(line.split()) for line in text.output.splitlines()]
    assert "offered models 1 cannot receive jobs" in lines
    assert "no jobs for m: above the limit\ufffd[2J (price)" in lines
    assert "warning from the coordinator 1 min 30 s ago about m: used up (quota)" in lines
    found = json.loads(printed.output)
    assert found["routing"]["unroutable"][0]["code"] == "price"
    assert found["notices"][0]["severity"] == "warning"


DOWN = BackendStatus(id="b", kind="vllm", healthy=False, last_error="refused", models=3)
EMPTY = BackendStatus(id="c", kind="vllm", healthy=True)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "all can receive jobs"),
        ({"backends": [DOWN, EMPTY]}, "none offered"),
        ({"backends": []}, "none offered"),
        ({"draining": True}, "draining"),
        ({"coordinator_draining": True}, "the coordinator is stopping; it sends no new jobs"),
        ({"routing": None}, "not reported by the coordinator yet"),
        ({"routing": None, "dialect": "usepod"}, "not reported in this dialect"),
    ],
)
async def test_status_shows_whether_models_are_offered(
    changes: dict[str, object], shown: str, runner: CliRunner
) -> None:
    # The coordinator has reported zero unroutable models, unless a case sets `routing` to None. If
    # the agent drains or offers no models, this does not mean that all can receive jobs.
    state = replace(
        replace(READY, routing=Routing(revision=3, unroutable_count=0, unroutable=[])), **changes
    )
    async with status_server(state) as address:
        result = await invoke_with_status_server(runner, address, "status")

    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert f"offered models {shown}" in lines


@pytest.mark.parametrize(("state", "code"), [(READY, 0), (replace(READY, draining=True), 1)])
async def test_status_as_json_has_the_same_exit_code(
    state: StatusSnapshot, code: int, runner: CliRunner
) -> None:
    async with status_server(state) as address:
        result = await invoke_with_status_server(runner, address, "status", "--json")

    assert result.exit_code == code
    assert json.loads(result.output)["version"] == "1.2.3"


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["health"]])
async def test_other_program_on_the_status_address_is_reported_in_one_line(
    command: list[str], runner: CliRunner
) -> None:
    async with other_http_server() as address:
        result = await invoke_with_status_server(runner, address, *command)

    assert result.exit_code == 1
    assert result.output.startswith(f"Error: another program responds on {address}; ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "health"])
def test_disabled_status_server_names_the_setting(command: str, runner: CliRunner) -> None:
    result = invoke(runner, command)

    assert result.exit_code == 1
    assert "[observability] prometheus_addr" in result.output


BUSY = replace(
    READY,
    routing=Routing(
        revision=3, unroutable_count=1, unroutable=[UnroutableOffer("n", "price", "too high")]
    ),
    offered=["m", "n"],
    in_flight=3,
    backends=[
        BackendStatus(
            id="echo", kind="echo", healthy=True, models=2, running=3, queued=1, capacity=4
        )
    ],
    stats=StatsSnapshot(42.25, 120.4, 480.0, 0.015),
    totals=Totals(
        jobs={"ok": 97, "cancelled": 1, "out_of_capacity": 2},
        refusals={"agent_full": 2},
        earned={"m": 1_234_567, "n": 5},
    ),
    last_refusals=[
        RefusedJobStatus(
            reason="agent_full",
            model_id="m\x1b[2J",
            age_s=61.0,
            remedy=REMEDIES["agent_full"],
        )
    ],
)


async def test_status_shows_load_speed_errors_refusals_and_earnings(runner: CliRunner) -> None:
    async with status_server(BUSY) as address:
        result = await invoke_with_status_server(runner, address, "status")

    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    remedy = "raise limits.max_concurrent if the servers have free slots"
    for line in (
        "can receive jobs m",
        "jobs 3 of 8, 1 waiting for the first byte",
        "last minute 42.2 tokens/s, first byte 120 ms (median), 480 ms (p95), 1.5% failed",
        "ended jobs 97 of 100 ok; 2 out_of_capacity, 1 cancelled",
        "refused jobs 2: 2 agent_full",
        "earned $1.234572, not confirmed by the coordinator",
        "$1.234567 m",
        f"refused 1 min 1 s ago, m\ufffd[2J: agent_full: {remedy}",
    ):
        assert line in lines
    assert "3 of 4" in result.output


RUNNING = RunningJobStatus(
    id="00",
    model_id="acme/a-model-with-a-long-name-70b\x1b[2J",
    backend_id="vllm:http://127.0.0.1:8000",
    format="openai",
    age_s=75.0,
    first_byte_ms=310.2,
    bytes=12_000,
    bytes_per_second=9_000.0,
    tokens_per_second=41.25,
)
ENDED = EndedJobStatus(
    id="01",
    model_id="m",
    backend_id="vllm:http://127.0.0.1:8000",
    format="openai",
    outcome="ok",
    age_s=42.0,
    duration_ms=12_600,
    first_byte_ms=280,
    input_tokens=900,
    output_tokens=None,
    earned=1234.0,
)
WITH_JOBS = replace(
    BUSY,
    in_flight=9,
    running=[RUNNING, replace(RUNNING, tokens_per_second=None)],
    last_jobs=[
        ENDED,
        replace(ENDED, outcome="backend_error", earned=None, first_byte_ms=None, input_tokens=None),
    ],
    last_hour=[
        MinuteStatus(minutes_ago=0, jobs=2, failed=1, refused=1, output_tokens=500, earned=7.0),
        MinuteStatus(minutes_ago=30, jobs=3, output_tokens=20),
    ],
)


async def test_status_shows_running_jobs_the_last_ones_and_the_last_hour(
    runner: CliRunner,
) -> None:
    async with status_server(WITH_JOBS) as address:
        result = await invoke_with_status_server(runner, address, "status")

    lines = [" ".join(line.replace("│", " ").split()) for line in result.output.splitlines()]
    model, backend = "acme/a-model-with-a-long-name-70b\ufffd[2J", "vllm:http://127.0.0.1:8000"
    for line in (
        "last hour 5 jobs, 1 failed, 1 refused, 520 output tokens, $0.000007",
        f"{model} {backend} 1 min 15 s 310 ms ≈ 41.2 tokens/s",
        f"{model} {backend} 1 min 15 s 310 ms 9.0 kB/s",
        "7 more running: see --json",
        f"m {backend} ok 900/? 280 ms 13 s $0.001234 42 s",
        f"m {backend} backend_error ?/? – 13 s – 42 s",
    ):
        assert line in lines


def test_status_fits_a_terminal_of_eighty_columns() -> None:
    output = io.StringIO()
    terminal = Console(file=output, width=80, markup=False, emoji=False, highlight=False)
    for part in status_parts(WITH_JOBS):
        if not isinstance(part, str):
            terminal.print(part)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "tokens/s" in output.getvalue()
    assert "$0.001234" in output.getvalue()


def test_jobs_name_a_backend_by_its_kind_if_there_is_no_other_of_this_kind() -> None:
    """The address of a backend took three lines per job on a terminal of eighty columns."""
    vllm = BackendStatus(id=ENDED.backend_id, kind="vllm", healthy=True, models=1)
    other = replace(vllm, id="vllm:http://127.0.0.1:8001")
    one, two = replace(WITH_JOBS, backends=[vllm]), replace(WITH_JOBS, backends=[vllm, other])
    assert "│ m         │ vllm    │ ok" in printed(one, "┃ ended job")
    assert ENDED.backend_id in printed(two, "┃ ended job")


SCHEDULED = AvailabilityStatus(schedule_changes_at="2026-11-30T18:00:00+01:00")
PAUSED = AvailabilityStatus(open=False, reason="paused", paused=True)
CLOSED = AvailabilityStatus(
    open=False,
    scheduled=False,
    reason="outside its schedule until Mon",
    schedule_changes_at="2026-11-30T18:00:00+01:00",
    opens_at="2026-11-30T18:00:00+01:00",
)


@pytest.mark.parametrize(
    ("availability", "text"),
    [
        (SCHEDULED, "until Mon 2026-11-30 18:00 +01:00"),
        (PAUSED, "no: paused; `provider-agent resume` ends the pause"),
        (CLOSED, "no: outside its schedule until Mon"),
        (
            replace(CLOSED, opens_at="2026-12-01T18:00:00+01:00"),
            "no: outside its schedule until Mon; back at Tue 2026-12-01 18:00 +01:00",
        ),
    ],
)
def test_status_says_when_the_agent_serves(availability: AvailabilityStatus, text: str) -> None:
    assert f"serves          {text}" in printed(replace(READY, availability=availability), "serves")


def printed(state: StatusSnapshot, word: str) -> str:
    """Return the part of the status that contains a word, as a wide terminal shows it."""
    output = io.StringIO()
    terminal = Console(file=output, width=160, markup=False, emoji=False, highlight=False)
    for part in status_parts(state):
        terminal.print(part)
        text = output.getvalue()
        if word in text:
            return text
        output.seek(0)
        output.truncate()
    pytest.fail(f"no part contains {word!r}")


def test_every_refusal_has_a_remedy() -> None:
    assert REMEDIES.keys() == set(RefusalReason)
    assert set(RefusalReason) <= set(re.findall(r"^ +\| `(\w+)` \|", MONITORING, re.MULTILINE))


@in_virtual_time
async def test_watching_continues_while_no_agent_runs() -> None:
    states: list[StatusSnapshot | NoAgent] = [READY, NoAgent("no agent responds"), BUSY]
    shown: list[StatusSnapshot | NoAgent] = []
    finished = asyncio.Event()

    async def fetch() -> StatusSnapshot:
        state = states[len(shown)]
        if isinstance(state, NoAgent):
            raise state
        return state

    def show(state: StatusSnapshot | NoAgent) -> None:
        shown.append(state)
        if len(shown) == len(states):
            finished.set()

    started_at = asyncio.get_running_loop().time()
    task = asyncio.create_task(watch_states(fetch, show))
    await finished.wait()
    assert shown == states
    assert asyncio.get_running_loop().time() - started_at == 2 * WATCH_S
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
