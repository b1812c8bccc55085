import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from tests.kit.cli_agent import READY, status_server
from tests.unit.agent.cli.calls import COORDINATOR, invoke_beside


@pytest.mark.parametrize("config", ["", COORDINATOR])
async def test_health_reads_livez(config: str, runner: CliRunner) -> None:
    async with status_server(replace(READY, draining=True), host="0.0.0.0") as address:
        alive = await invoke_beside(runner, address, "health", config=config)
        ready = await invoke_beside(runner, address, "health", "--ready", config=config)

    assert (alive.exit_code, alive.output) == (0, "ok\n")
    assert ready.exit_code == 1
    assert ready.output.startswith("draining: ")
