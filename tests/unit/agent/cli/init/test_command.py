"""`init` without a terminal: it asks nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.cli.main import main
from provider_agent.agent.config import BackendConfig, LoadedConfig, Price, load_config
from provider_agent.agent.identity.key import load, load_or_create
from tests.kit.fakes.llamacpp import FakeLlamaCpp
from tests.kit.fakes.ollama import FakeOllama
from tests.kit.fakes.server import FakeServer
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL, FakeVllm

URL = "wss://coordinator.example/provider/connect"
CODE = "SECRET-ENROLLMENT-CODE"
KEY = "sk-SECRET"
MODELS = f"{LORA_ADAPTER}, {MODEL}"


@pytest.fixture
async def vllm() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        yield server


def port_of(server: FakeServer) -> tuple[str, str]:
    return "--port", str(urlsplit(server.url).port)


async def init(runner: CliRunner, *arguments: str, **env: str) -> Result:
    """Run `init` in a thread: it has its own event loop."""
    result = await asyncio.to_thread(runner.invoke, main, ["init", *arguments], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert CODE not in result.output
    assert KEY not in result.output
    return result


def write(name: str, text: str) -> None:
    Path(name).write_text(text, "utf-8")


def read(name: str) -> str:
    return Path(name).read_text("utf-8")


def mode_of(name: str) -> int:
    return Path(name).stat().st_mode


def files() -> list[str]:
    """The files in the current directory, except those of the key."""
    return sorted(path.name for path in Path.cwd().iterdir() if path.name != ".config")


def loaded(path: str = "agent.toml") -> LoadedConfig:
    return load_config(Path(path), {"HOME": str(Path.cwd())}, {}, BUILT_IN_KINDS)


async def test_file_has_the_found_servers_and_the_key_is_created(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    async with FakeOllama() as ollama:
        result = await init(
            runner,
            *port_of(ollama),
            *port_of(vllm),
            "--coordinator-url",
            URL,
            "--input-price",
            "0.5 USD",
            "--output-price",
            "1.5 USD",
            "--output-price",
            f"{MODEL}=2 USD",
            PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE=CODE,
        )

    assert result.exit_code == 0
    assert f"found vLLM at {vllm.url}: {MODELS}\n" in result.stderr
    config = loaded().config
    assert config.coordinator.url == URL
    assert config.coordinator.enrollment_code == CODE
    assert config.backends == (
        BackendConfig(kind="ollama", url=ollama.url),
        BackendConfig(kind="vllm", url=vllm.url),
    )
    assert config.pricing.default_input_per_1m == 500_000
    assert config.pricing.models == {MODEL: Price(500_000, 2_000_000)}
    assert mode_of("agent.toml") & 0o777 == 0o600
    key = load(config.identity.key_path)
    assert result.stdout.splitlines() == [
        f"settings     {config.identity.key_path.parents[2] / 'agent.toml'} (2 servers)",
        f"public key   {key.public_key_text}",
        f"fingerprint  {key.fingerprint}",
        f"key file     {config.identity.key_path}",
        "",
        "If the coordinator has an allow-list, give its operator the public key. Next:",
        "  provider-agent check",
    ]


NO_PRICES = (
    "Models without a price may receive no jobs: set [pricing] in the file, or add --input-price "
    "and --output-price."
)


@pytest.mark.parametrize(
    ("models", "noted"), [((), True), ((MODEL,), True), ((MODEL, LORA_ADAPTER), False)]
)
async def test_missing_prices_are_noted(
    models: tuple[str, ...], noted: bool, runner: CliRunner, vllm: FakeVllm
) -> None:
    options = [
        ("--input-price", f"{one}=1 USD", "--output-price", f"{one}=1 USD") for one in models
    ]
    arguments = [argument for option in options for argument in option]
    result = await init(runner, *port_of(vllm), "--coordinator-url", URL, *arguments)
    assert (NO_PRICES in result.stdout.splitlines()) == noted


async def test_address_and_key_path_come_from_variables(runner: CliRunner, vllm: FakeVllm) -> None:
    result = await init(
        runner,
        *port_of(vllm),
        "--config",
        "my settings/a.toml",
        PROVIDER_AGENT_COORDINATOR_URL=URL,
        PROVIDER_AGENT_IDENTITY_KEY_PATH="keys/agent.key",
    )

    assert result.stdout.endswith("\n  provider-agent check --config 'my settings/a.toml'\n")
    config = loaded("my settings/a.toml").config
    # `run` may start in another directory.
    assert config.identity.key_path == Path.cwd() / "keys" / "agent.key"
    assert len(load(config.identity.key_path).public_key) == 32


async def test_the_key_of_the_rust_agent_is_used_with_its_marketplace(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    # `init` made a new key: the marketplace would have seen a new provider.
    key_path = Path.cwd() / ".usepod-agent/identity.key"
    key = load_or_create(key_path)
    usepod = ("--coordinator-url", "wss://api.usepod.ai/provider/connect")

    written = await init(runner, *port_of(vllm), *usepod)
    other = await init(runner, *port_of(vllm), "-c", "other.toml", "--coordinator-url", URL)

    assert f"public key   {key.public_key_text}\n" in written.stdout
    assert loaded().config.identity.key_path == key_path
    assert key.public_key_text not in other.stdout
    # The file names the key, so that a key that is made later is not used instead.
    assert f'key_path = "{key_path}"\n' in read("agent.toml")


async def test_file_named_by_the_variable_is_written(runner: CliRunner, vllm: FakeVllm) -> None:
    result = await init(
        runner,
        *port_of(vllm),
        "--coordinator-url",
        URL,
        PROVIDER_AGENT_CONFIG="~/etc/agent.toml",
    )

    assert result.stdout.endswith("\n  provider-agent check\n")
    assert loaded("etc/agent.toml").config.coordinator.url == URL


async def test_server_that_requires_a_key_gets_the_name_of_its_variable(
    runner: CliRunner,
) -> None:
    async with FakeVllm(api_key=KEY) as vllm, FakeLlamaCpp(api_key=KEY) as llamacpp:
        arguments = (*port_of(vllm), *port_of(llamacpp), "--coordinator-url", URL)
        result = await init(runner, *arguments, VLLM_API_KEY=KEY)

    found, locked = result.stderr.splitlines()
    assert found.endswith(f"{MODELS}")
    assert locked.endswith("it requires a key: put it into the variable LLAMACPP_API_KEY")
    assert "export LLAMACPP_API_KEY=…\n" in result.stdout
    assert "VLLM_API_KEY" not in result.stdout
    keys = [backend.api_key_env for backend in loaded().config.backends]
    assert keys == ["VLLM_API_KEY", "LLAMACPP_API_KEY"]
    assert KEY not in read("agent.toml")


async def test_file_without_servers_is_written_with_advice(
    runner: CliRunner, unused_tcp_port: int
) -> None:
    port = str(unused_tcp_port)
    result = await init(runner, "--port", port, "--coordinator-url", URL)

    assert result.exit_code == 0
    assert f"no inference server answers on the port {port} of this machine" in result.stderr
    assert "add [[backends]] to the file" in result.stderr
    assert loaded().config.backends == ()


async def test_dry_run_prints_the_file_and_writes_nothing(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    # The file exists, which is no reason to refuse.
    write("agent.toml", "mine")
    result = await init(
        runner,
        *port_of(vllm),
        "--dry-run",
        "--coordinator-url",
        URL,
        PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE=CODE,
    )

    assert files() == ["agent.toml"]
    assert read("agent.toml") == "mine"
    write("printed.toml", result.stdout)
    assert loaded("printed.toml").config.backends == (BackendConfig(kind="vllm", url=vllm.url),)


async def test_existing_file_is_replaced_only_with_force(runner: CliRunner, vllm: FakeVllm) -> None:
    write("agent.toml", "mine")
    arguments = (*port_of(vllm), "--coordinator-url", URL)

    refused = await init(runner, *arguments)

    assert refused.exit_code == 2
    assert refused.stderr == (
        "Error: agent.toml: the file exists; edit it, or replace it with --force\n"
    )
    assert vllm.requests == []
    assert files() == ["agent.toml"]
    assert read("agent.toml") == "mine"

    assert (await init(runner, *arguments, "--force")).exit_code == 0
    assert loaded().config.coordinator.url == URL


async def test_existing_key_is_kept(runner: CliRunner, vllm: FakeVllm) -> None:
    arguments = (*port_of(vllm), "--coordinator-url", URL, "--force")
    first = await init(runner, *arguments)
    second = await init(runner, *arguments)

    assert first.stdout == second.stdout


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ((), {}, "the coordinator's address is missing; add --coordinator-url, or set PROVIDER_"),
        (("--coordinator-url", "http://c.example"), {}, "--coordinator-url: expected an address"),
        (("--coordinator-url", "ws://c.example"), {}, "--coordinator-url: ws:// would send"),
        (
            ("--coordinator-url", URL, "--input-price", "0.5 USD"),
            {},
            "--input-price is set without",
        ),
        (("--coordinator-url", URL, "--input-price", "x"), {}, 'with their unit, got "x"; half'),
        (("--coordinator-url", URL, "--key-path", "a\nb"), {}, "--key-path: it contains"),
        (("--coordinator-url", URL, "--key-path", "."), {}, "cannot be read: Is a directory"),
        (
            ("--coordinator-url", URL),
            {"PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": "x" * 513},
            "the enrollment code is not one line of at most 512 characters; correct PROVIDER_",
        ),
        (
            ("--coordinator-url", URL),
            {"PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": "a\nb"},
            "the enrollment code is not one line",
        ),
        (("--coordinator-url", URL, "-c", "/dev/null/x"), {}, "/dev/null/x: cannot be written"),
    ],
)
async def test_refusal_is_one_message_and_exit_code_2(
    arguments: tuple[str, ...],
    env: dict[str, str],
    message: str,
    runner: CliRunner,
    vllm: FakeVllm,
) -> None:
    result = await init(runner, *port_of(vllm), *arguments, **env)

    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not files()
    assert result.stdout == ""


async def test_insecure_address_needs_the_flag(runner: CliRunner, vllm: FakeVllm) -> None:
    arguments = (*port_of(vllm), "--coordinator-url", "ws://10.0.0.1/", "--allow-insecure")
    assert (await init(runner, *arguments)).exit_code == 0

    assert loaded().config.coordinator.allow_insecure
