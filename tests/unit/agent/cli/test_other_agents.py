"""Commands while agents with other keys run, such as that of an installed service."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner, Result

from provider_agent.agent.identity.key import Identity, load_or_create
from tests.kit.agent_mistakes import AGENT_MISTAKES, AgentMistake
from tests.kit.cli_agent import free_ports, status_server
from tests.unit.agent.cli.calls import invoke

KEY = Path(".config/provider-agent/identity.key")


@pytest.fixture
def own(runner: CliRunner, tmp_path: Path) -> Identity:
    """The operator's own key, with which no agent runs."""
    return load_or_create(tmp_path / KEY)


@asynccontextmanager
async def agents(*fingerprints: str) -> AsyncIterator[str]:
    """Run agents with these keys, and yield their range of addresses."""
    ports = free_ports(max(len(fingerprints), 2))
    address = f"127.0.0.1:{ports[0]}-{ports[-1]}"
    async with AsyncExitStack() as stack:
        for one in fingerprints:
            server = status_server(ports=address.partition(":")[2], fingerprint=one)
            await stack.enter_async_context(server)
        yield address


async def call(runner: CliRunner, address: str, *arguments: str, **env: str) -> Result:
    env["PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR"] = address
    return await asyncio.to_thread(lambda: invoke(runner, *arguments, **env))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("mistake", AGENT_MISTAKES, ids=lambda one: " ".join(one.command))
async def test_message_is_one_line_and_says_what_to_do(
    mistake: AgentMistake, runner: CliRunner
) -> None:
    async with agents(*mistake.agents) as address:
        result = await call(runner, address, *mistake.command)

    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert mistake.message in result.output
    assert mistake.remedy in result.output
    for fingerprint in mistake.agents:
        assert f"{fingerprint} on 127.0.0.1:" in result.output


@pytest.mark.parametrize(
    "command", [("status",), ("status", "--json"), ("health",), ("health", "--ready")]
)
async def test_the_only_other_agent_is_shown_and_named(
    command: tuple[str, ...], own: Identity, runner: CliRunner, tmp_path: Path
) -> None:
    async with agents("other") as address:
        result = await call(runner, address, *command)

    assert result.exit_code == 0
    first = f"{address.partition('-')[0]}\n"
    note = f"no agent runs with the key {tmp_path / KEY} ({own.fingerprint}); "
    assert result.stderr == f"{note}this is the agent other on {first}"
    if "--json" in command:
        assert json.loads(result.stdout)["version"] == "1.2.3"


async def test_another_agent_is_never_the_one_whose_key_the_environment_names(
    own: Identity, runner: CliRunner, tmp_path: Path
) -> None:
    env = {"PROVIDER_AGENT_IDENTITY_KEY_PATH": str(tmp_path / KEY)}
    async with agents("other") as address:
        result = await call(runner, address, "health", **env)

    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        f"({own.fingerprint}) that the environment names; other agents: other on " in result.stderr
    )


@pytest.mark.usefixtures("own")
async def test_bundle_has_the_state_of_the_only_other_agent(runner: CliRunner) -> None:
    async with agents("other") as address:
        result = await call(runner, address, "support-bundle", "--output", "bundle.zip")

    assert result.exit_code == 0, result.output
    with ZipFile("bundle.zip") as bundle:
        (name,) = (one for one in bundle.namelist() if one.endswith("status.json"))
        state = json.loads(bundle.read(name))
    assert state["version"] == "1.2.3"
    assert "this is the agent other on " in state["note"]
