import json

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from provider_agent.agent.link.coordinator_messages import (
    ReceivedNotice,
    Routing,
    UnroutableOffer,
)
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from tests.kit.cli_agent import READY, other_http_server, status_server
from tests.unit.agent.cli.calls import invoke, invoke_with_status_server


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
