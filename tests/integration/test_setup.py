"""`setup` in a terminal; the file that it writes is the configuration of `check` and `run`."""

import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.kit.cli_process import run_command, start_command
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL, FakeVllm
from tests.kit.pairing_server import (
    ACTIVE,
    EXPIRED,
    HOST_TOKEN,
    PAIR_CODE,
    PENDING,
    POLL_TOKEN,
    PROVIDER_ID,
    PairingServer,
    json_answer,
)
from tests.kit.terminal import TerminalProcess, start_in_terminal
from tests.kit.usepod_coordinator import UsepodCoordinator


def arguments(server: PairingServer, vllm: FakeVllm) -> list[str]:
    port = f"--port={urlsplit(vllm.url).port}"
    return ["setup", port, "--coordinator-url", server.url]


def lines_of(terminal: TerminalProcess) -> list[str]:
    """The lines that were displayed, also those that the next one has overwritten."""
    assert POLL_TOKEN not in terminal.screen
    assert HOST_TOKEN not in terminal.screen
    assert "Traceback" not in terminal.screen
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.screen)
    return [line.rstrip() for line in re.split(r"[\r\n]", plain)]


async def test_code_is_shown_large_with_page_and_countdown(tmp_path: Path) -> None:
    async with (
        FakeVllm() as vllm,
        PairingServer(PENDING, json_answer({}, 502), PENDING, ACTIVE) as server,
        start_in_terminal(*arguments(server, vllm), home=tmp_path) as terminal,
    ):
        assert await terminal.wait() == 0

    lines = lines_of(terminal)
    assert f"1. Open {server.url}/host/pair" in lines
    assert f"2. Enter the code {PAIR_CODE}" in lines
    assert any("│   A B C D - E F G H   │" in line for line in lines)
    assert any(re.fullmatch(r"Waiting for the code, (9:5\d|10:0\d) left", line) for line in lines)
    assert any("left, retrying: the server answered with HTTP status 502" in one for one in lines)
    assert f"provider id  {PROVIDER_ID}" in lines
    assert lines[-3:] == ["  provider-agent check", "  provider-agent run", ""]
    assert (tmp_path / "agent.toml").exists()


async def test_box_fits_forty_columns_and_needs_neither_color_nor_unicode(tmp_path: Path) -> None:
    env = {"COLUMNS": "40", "NO_COLOR": "1", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    async with (
        FakeVllm() as vllm,
        PairingServer(ACTIVE) as server,
        start_in_terminal(*arguments(server, vllm), home=tmp_path, env=env) as terminal,
    ):
        assert await terminal.wait() == 0

    box = [line for line in lines_of(terminal) if line.startswith(" " * 6)]
    assert "|   A B C D - E F G H   |" in box[2]
    assert max(map(len, box)) <= 40


async def test_expired_code_is_replaced_by_a_new_one_on_request(tmp_path: Path) -> None:
    async with (
        FakeVllm() as vllm,
        PairingServer(EXPIRED) as server,
        start_in_terminal(*arguments(server, vllm), home=tmp_path) as terminal,
    ):
        await terminal.answer("The code has expired. Get a new one? [Y/n]: ", "")
        await terminal.answer("The code has expired. Get a new one? [Y/n]: ", "n")
        assert await terminal.wait() == 1

    assert len(server.issues) == 2
    assert not (tmp_path / "agent.toml").exists()


async def test_server_that_starts_later_is_found_by_the_next_search(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    command = ["setup", f"--port={unused_tcp_port}"]
    async with (
        PairingServer(ACTIVE) as server,
        start_in_terminal(*command, "--coordinator-url", server.url, home=tmp_path) as terminal,
    ):
        await terminal.answer("Search again? [Y/n]: ", "y")
        await terminal.answer("Search again? [Y/n]: ", "n")
        assert await terminal.wait() == 0

    assert "[[backends]]" in (tmp_path / "agent.toml").read_text("utf-8")


async def test_check_and_run_accept_the_file_unchanged(tmp_path: Path) -> None:
    activated = {"model_id": MODEL, "input_per_1m": 30_000, "output_per_1m": 60_000}
    async with FakeVllm() as vllm, UsepodCoordinator() as coordinator:
        async with PairingServer({**ACTIVE, "model_config": [activated]}) as server:
            paired = await run_command(*arguments(server, vllm), home=tmp_path)
        assert paired.code == 0, paired.err

        env = {"PROVIDER_AGENT_COORDINATOR_URL": coordinator.url}
        checked = await run_command("check", home=tmp_path, env=env)
        assert checked.code == 0, checked.out
        await coordinator.next_connection()
        async with start_command("run", home=tmp_path, env=env) as agent:
            link = await coordinator.next_connection()
            offered = await link.next("capabilities")
            agent.signal(signal.SIGTERM)
            stopped = await agent.wait()

    assert "dialect usepod (as configured)" in checked.out
    assert {(one["model_id"], one["input_per_1m"]) for one in offered["models"]} == {
        (MODEL, 30_000),
        (LORA_ADAPTER, 500_000),
    }
    assert offered["limits"]["max_concurrent_total"] == 4
    assert stopped.code == 0
    assert "warning" not in agent.err.lower()


@pytest.mark.parametrize(
    ("poll", "shown", "key"),
    [(PENDING, "Waiting for the code", "\x03"), (EXPIRED, "new one? [Y/n]: ", "\x04")],
    ids=["Ctrl-C while waiting", "Ctrl-D at a question"],
)
async def test_interrupt_writes_no_settings(
    poll: object, shown: str, key: str, tmp_path: Path
) -> None:
    async with (
        FakeVllm() as vllm,
        PairingServer(poll) as server,
        start_in_terminal(*arguments(server, vllm), home=tmp_path) as terminal,
    ):
        await terminal.expect(shown)
        terminal.type(key)
        assert await terminal.wait() == 130

    assert "Not paired, and no settings were written." in lines_of(terminal)
    assert not (tmp_path / "agent.toml").exists()
