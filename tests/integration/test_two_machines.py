"""A coordinator and an agent on different machines, as the printed commands say."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cli_process import CliProcess, start_command
from tests.kit.two_machines import Machine, two_machines

CODE = {"PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": "code"}
KEYS = {"COORDINATOR_API_KEYS": "key", "COORDINATOR_ENROLLMENT_CODES": "code"}
AGENT_TOML = '[observability]\nprometheus_addr = ""\n[[backends]]\nkind = "echo"\n'


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    try:
        with two_machines() as both:
            yield both
    except OSError as error:
        pytest.skip(f"no network namespaces: {error}")


async def printed_commands(coordinator: CliProcess) -> list[list[str]]:
    """Return `run` with the options of the printed `init`, for each address beyond loopback."""
    line = await coordinator.wait_for_log("on another machine: provider-agent")
    command, *options = shlex.split(line.partition("provider-agent ")[2])
    assert command == "init"
    words = ["run", *options]
    urls = re.findall(r"(ws://(?!127)\S+/provider/connect)\n", coordinator.err)
    return [[url if word.startswith("ws://") else word for word in words] for url in urls]


@pytest.mark.parametrize(("host", "addresses"), [("0.0.0.0", 1), ("::", 2)])
async def test_printed_command_connects_an_agent_of_another_machine(
    machines: tuple[Machine, Machine], tmp_path: Path, host: str, addresses: int
) -> None:
    """The coordinator printed ws://127.0.0.1, and refused agents that dialed its address."""
    one, two = machines
    (tmp_path / "agent.toml").write_text(AGENT_TOML, "utf-8")
    arguments = ("coordinator", "--host", host)
    async with start_command(*arguments, home=tmp_path, env=KEYS, prefix=one.prefix) as coordinator:
        commands = await printed_commands(coordinator)
        assert len(commands) == addresses
        for command in commands:
            async with start_command(*command, home=tmp_path, env=CODE, prefix=two.prefix) as agent:
                assert "provider_id=" in await agent.wait_for_log("connected")


async def test_agent_that_dials_a_name_which_is_no_authority_learns_what_to_do(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    one, two = machines
    (tmp_path / "agent.toml").write_text(AGENT_TOML, "utf-8")
    arguments = ("coordinator", "--host", "0.0.0.0", "--authority", "ai.example")
    async with start_command(*arguments, home=tmp_path, env=KEYS, prefix=one.prefix) as coordinator:
        await coordinator.wait_for_log("agents may dial ai.example:443")
        url = f"ws://{one.ipv4}:8700/provider/connect"
        command = ("run", "--allow-insecure", "--coordinator-url", url)
        async with start_command(*command, home=tmp_path, env=CODE, prefix=two.prefix) as agent:
            result = await agent.wait()
        assert result.code == 78
        assert "--authority" in result.err
        assert f"host='{one.ipv4}:8700'" in await coordinator.wait_for_log("agent rejected")
