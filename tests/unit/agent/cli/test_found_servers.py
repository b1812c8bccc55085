"""`check`, `models` and `ask` without any configuration use the servers of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from provider_agent.agent.cli import found_servers
from provider_agent.agent.cli.found_servers import ports_text
from provider_agent.agent.cli.main import main
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL, FakeVllm
from tests.unit.agent.cli.calls import ECHO


@pytest.fixture
async def vllm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        monkeypatch.setattr(found_servers, "WELL_KNOWN_PORTS", (urlsplit(server.url).port,))
        yield server


@pytest.fixture
def no_server(unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(found_servers, "WELL_KNOWN_PORTS", (unused_tcp_port,))
    return unused_tcp_port


async def call(runner: CliRunner, *arguments: str, **env: str) -> Result:
    """Run a command without a configuration file, in a thread: it has its own event loop."""
    result = await asyncio.to_thread(runner.invoke, main, arguments, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write_echo() -> None:
    Path("agent.toml").write_text(ECHO, "utf-8")


def test_ports_are_listed() -> None:
    assert ports_text((1, 2, 3)) == "the ports 1, 2 and 3"
    assert ports_text((1,)) == "the port 1"


async def test_models_lists_the_models_of_the_found_server(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    result = await call(runner, "models", "--json")

    assert result.exit_code == 0
    assert [model["model_id"] for model in json.loads(result.stdout)["models"]] == [
        LORA_ADAPTER,
        MODEL,
    ]
    assert result.stderr == (
        f"there is no agent.toml; found on this machine: vLLM at {vllm.url}; "
        "`provider-agent init` writes the file\n"
    )


async def test_ask_uses_the_found_server(runner: CliRunner, vllm: FakeVllm) -> None:
    result = await call(runner, "ask", MODEL, "hi")

    assert result.exit_code == 0
    assert result.stdout
    assert f"found on this machine: vLLM at {vllm.url}" in result.stderr
    assert len(vllm.jobs) == 1


@pytest.mark.parametrize("command", [("models",), ("ask", "m", "hi")])
async def test_no_server_is_found(
    command: tuple[str, ...], runner: CliRunner, no_server: int
) -> None:
    result = await call(runner, *command)

    assert result.exit_code == 1
    note = f"no inference server answers on the port {no_server} of this machine"
    assert f"there is no agent.toml, and {note}; `provider-agent init`" in result.output
    # There was a second advice, to add [[backends]] to the missing file.
    assert "no backend is configured" not in result.output
    assert result.output.count("agent.toml") == 1
    # `ask` added that no backend serves the model, which follows.
    assert "model_not_loaded" not in result.output


@pytest.mark.parametrize("configured", ["file", "variable"])
async def test_configured_backends_are_used_without_a_search(
    configured: str, runner: CliRunner, vllm: FakeVllm
) -> None:
    env = {}
    if configured == "file":
        write_echo()
    else:
        env["PROVIDER_AGENT_BACKENDS"] = '[{"kind": "echo"}]'

    result = await call(runner, "models", **env)

    assert "found on this machine" not in result.output
    assert vllm.requests == []


async def test_check_tests_the_found_server_and_fails_without_a_coordinator(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    result = await call(runner, "check", "--json")

    findings = json.loads(result.output)["findings"]
    assert result.exit_code == 2
    assert [(f["component"], f["target"], f["outcome"]) for f in findings][:4] == [
        ("configuration", "environment", "failed"),
        ("identity", str(Path.cwd() / ".config/provider-agent/identity.key"), "failed"),
        ("coordinator", "[coordinator] url", "failed"),
        ("backend", f"vllm:{vllm.url}", "ok"),
    ]
    assert findings[0]["details"] == (
        f"there is no agent.toml; found on this machine: vLLM at {vllm.url}"
    )
    assert findings[0]["what_to_do"] == "`provider-agent init` writes the file"
    assert {f["outcome"] for f in findings if f["component"] == "completion"} == {"ok"}


async def test_check_dials_the_coordinator_of_the_environment(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    url = "ws://127.0.0.1:1/"
    result = await call(runner, "check", "--json", PROVIDER_AGENT_COORDINATOR_URL=url)

    findings = json.loads(result.output)["findings"]
    assert result.exit_code == 1
    (dialed,) = [f for f in findings if f["component"] == "coordinator"]
    assert (dialed["target"], dialed["outcome"]) == (url, "failed")
    # `run` would offer nothing: it does not search.
    assert findings[0]["outcome"] == "failed"
