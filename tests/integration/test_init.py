"""`init` in a terminal; the file that it writes is the configuration of `check` and `run`."""

import asyncio
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.config import Price, load_config
from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.cli_process import COMMAND, kept_variables, run_command, start_command
from tests.kit.fakes.llamacpp import MODEL as LLAMACPP_MODEL
from tests.kit.fakes.llamacpp import FakeLlamaCpp
from tests.kit.fakes.server import FakeServer
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL, FakeVllm
from tests.kit.llamacpp import LlamaCppFactory
from tests.kit.terminal import start_in_terminal

CODE = "SECRET-ENROLLMENT-CODE"
CODE_QUESTION = "Enrollment code (not shown; Enter for none): "
"""With the space, which is printed when the terminal no longer displays what is typed."""


def ports_of(*servers: FakeServer) -> list[str]:
    return [f"--port={urlsplit(server.url).port}" for server in servers]


def written(home: Path) -> list[Path]:
    return list(home.iterdir())


async def test_answers_in_a_terminal_become_the_file(tmp_path: Path) -> None:
    async with (
        FakeVllm() as vllm,
        FakeLlamaCpp() as llamacpp,
        start_in_terminal("init", *ports_of(vllm, llamacpp), home=tmp_path) as terminal,
    ):
        await terminal.answer(f"Offer the models of vLLM at {vllm.url}? [Y/n]: ", "")
        await terminal.answer(f"Offer the models of llama.cpp at {llamacpp.url}? [Y/n]: ", "n")
        await terminal.answer("Coordinator's address (wss://…): ", "http://127.0.0.1:8700")
        await terminal.answer("expected an address that begins with wss://", "")
        await terminal.answer("Coordinator's address (wss://…): ", "ws://127.0.0.1:8700/connect")
        await terminal.answer(CODE_QUESTION, CODE)
        await terminal.answer("Input price of all models (Enter for no price): ", "half")
        await terminal.expect('expected dollars with their unit, got "half"')
        await terminal.answer("Input price of all models (Enter for no price): ", "0.50 USD")
        await terminal.answer("Output price of all models: ", "1.50 USD")
        await terminal.answer("The same for each of the 2 models? [Y/n]: ", "n")
        await terminal.answer(f"Input price of {LORA_ADAPTER} [0.50 USD]: ", "1 USD")
        await terminal.answer(f"Output price of {LORA_ADAPTER} [1.50 USD]: ", "2 USD")
        await terminal.answer(f"Input price of {MODEL} [0.50 USD]: ", "")
        await terminal.answer(f"Output price of {MODEL} [1.50 USD]: ", "")
        assert await terminal.wait() == 0

    assert CODE not in terminal.screen
    assert LLAMACPP_MODEL in terminal.screen
    assert terminal.screen.endswith("\n  provider-agent check\n")
    env = {"HOME": str(tmp_path)}
    config = load_config(tmp_path / "agent.toml", env, {}, BUILT_IN_KINDS).config
    assert config.coordinator.url == "ws://127.0.0.1:8700/connect"
    assert config.coordinator.enrollment_code == CODE
    assert [backend.url for backend in config.backends] == [vllm.url]
    assert config.pricing.default_input_per_1m == 500_000
    assert config.pricing.models == {LORA_ADAPTER: Price(1_000_000, 2_000_000)}


async def test_options_and_variables_are_not_asked_for(tmp_path: Path) -> None:
    url = "wss://coordinator.example/connect"
    async with FakeVllm() as vllm:
        options = ["--coordinator-url", url, "--input-price", "1 USD", "--output-price", "2 USD"]
        env = {"PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": CODE}
        command = ["init", *ports_of(vllm), *options]
        async with start_in_terminal(*command, home=tmp_path, env=env) as terminal:
            await terminal.answer(f"Offer the models of vLLM at {vllm.url}? [Y/n]: ", "y")
            assert await terminal.wait() == 0

    assert "price" not in terminal.screen
    assert CODE not in terminal.screen
    assert CODE in (tmp_path / "agent.toml").read_text("utf-8")


async def test_yes_asks_nothing_in_a_terminal(tmp_path: Path) -> None:
    async with FakeVllm() as vllm:
        command = ["init", "--yes", *ports_of(vllm), "--coordinator-url", "wss://c.example/"]
        async with start_in_terminal(*command, home=tmp_path) as terminal:
            assert await terminal.wait() == 0

    assert "?" not in terminal.screen
    assert (tmp_path / "agent.toml").exists()


async def test_closed_standard_input_is_no_terminal(tmp_path: Path, unused_tcp_port: int) -> None:
    command = f'exec "$0" init --port {unused_tcp_port} --dry-run <&-'
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        command,
        COMMAND,
        cwd=tmp_path,
        env={**kept_variables(), "HOME": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()

    assert process.returncode == 2
    assert b"Error: the coordinator's address is missing; add --coordinator-url" in errors


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
async def test_interrupted_questions_write_nothing(key: str, tmp_path: Path) -> None:
    async with (
        FakeVllm() as vllm,
        start_in_terminal("init", *ports_of(vllm), home=tmp_path) as terminal,
    ):
        await terminal.answer("Offer the models of vLLM", "y")
        await terminal.expect("Coordinator's address (wss://…): ")
        assert await terminal.type_until_exit(key) == 130

    assert "Traceback" not in terminal.screen
    assert not written(tmp_path)


async def test_run_and_check_accept_the_file_unchanged(
    tmp_path: Path, llamacpp_factory: LlamaCppFactory
) -> None:
    server = await llamacpp_factory()
    settings = CoordinatorSettings(port=0, drain_s=0, enrollment_codes=SecretSet([CODE]))
    async with Coordinator(settings) as coordinator:
        env = {
            "PROVIDER_AGENT_COORDINATOR_URL": coordinator.connect_url,
            "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": CODE,
        }
        port = f"--port={urlsplit(server.url).port}"
        written = await run_command("init", port, home=tmp_path, env=env)
        assert written.code == 0, written.err
        assert f"found llama.cpp at {server.url}" in written.err

        checked = await run_command("check", home=tmp_path)
        assert checked.code == 0, checked.out
        assert "All checks passed" in checked.out

        off = ("--prometheus-addr", "off")
        async with start_command("run", *off, home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            agent.signal(signal.SIGTERM)
            stopped = await agent.wait()

    assert stopped.code == 0
    assert "warning" not in agent.err.lower()
