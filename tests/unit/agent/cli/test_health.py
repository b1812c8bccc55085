import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from tests.kit.cli_agent import READY, status_server
from tests.unit.agent.cli.calls import COORDINATOR, invoke_with_status_server


@pytest.mark.parametrize("config", ["", COORDINATOR])
async def test_draining_agent_is_alive_but_not_ready(config: str, runner: CliRunner) -> None:
    async with status_server(replace(READY, draining=True), host="0.0.0.0") as address:
        alive = await invoke_with_status_server(runner, address, "health", config=config)
        ready = await invoke_with_status_server(runner, address, "health", "--ready", config=config)

    assert (alive.exit_code, alive.output) == (0, "ok\n")
    assert ready.exit_code == 1
    assert ready.output.startswith("draining: ")
