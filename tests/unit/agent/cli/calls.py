"""Invokes commands with `CliRunner`, and checks that their output contains no secret."""

import asyncio
from pathlib import Path

from click.testing import CliRunner, Result

from provider_agent.agent.cli.main import main

ECHO = '[[backends]]\nkind = "echo"\n'
NO_KEY = '[[backends]]\nkind = "venice"\napi_key_env = "KEY_THAT_IS_NOT_SET"\n'
SECRET = "SECRET-ENROLLMENT-CODE"
COORDINATOR = f'[coordinator]\nurl = "ws://127.0.0.1:1/"\nenrollment_code = "{SECRET}"\n'


def invoke(runner: CliRunner, *arguments: str, config: str = "", **env: str) -> Result:
    """Run a command with `config` as `agent.toml` and with the environment variables `env`."""
    Path("agent.toml").write_text(config, "utf-8")
    result = runner.invoke(main, arguments, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result


async def invoke_with_status_server(
    runner: CliRunner, address: str, *arguments: str, config: str = ""
) -> Result:
    """Run a command that queries the agent's status server at `address`.

    It runs in a thread, because it starts its own event loop.
    """
    env = {"PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": address}
    return await asyncio.to_thread(lambda: invoke(runner, *arguments, config=config, **env))
