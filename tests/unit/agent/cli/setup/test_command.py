"""`setup` without a terminal: it asks nothing, and prints plain lines."""

import asyncio
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec import Struct

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.cli.main import main
from provider_agent.agent.config import BackendConfig, Config, Price, load_config
from provider_agent.agent.identity.key import load
from provider_agent.agent.identity.provider_id import read_provider_id
from tests.kit.fakes.server import FakeServer
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
    text_answer,
)
from tests.kit.wrong_servers import closed_port
from tests.unit.agent.identity.test_key import PUBLIC, SECRET, rust_agent_file

KEY = "sk-SECRET"
PRICES = "0.50 USD in, 1.00 USD out per million tokens"


@pytest.fixture
async def vllm() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        yield server


def port_of(server: FakeServer) -> tuple[str, str]:
    return "--port", str(urlsplit(server.url).port)


async def setup(runner: CliRunner, *arguments: str, **env: str) -> Result:
    """Run `setup` in a thread: it has its own event loop."""
    result = await asyncio.to_thread(runner.invoke, main, ["setup", *arguments], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    everything = result.output + "".join(
        path.read_text("utf-8") for path in Path.cwd().rglob("*") if path.is_file()
    )
    for secret in (POLL_TOKEN, HOST_TOKEN, KEY):
        assert secret not in everything
    return result


async def pair(runner: CliRunner, server: PairingServer, *arguments: str, **env: str) -> Result:
    return await setup(runner, "--coordinator-url", server.url, *arguments, **env)


def config_of(path: str = "agent.toml") -> Config:
    loaded = load_config(Path(path), {"HOME": str(Path.cwd())}, {}, BUILT_IN_KINDS)
    assert loaded.warnings == ()
    return loaded.config


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, "utf-8")
    Path(name).chmod(0o600)


def read(name: str) -> str:
    return Path(name).read_text("utf-8")


def mode_of(name: str) -> int:
    return Path(name).stat().st_mode


async def test_pairing_writes_a_complete_file_and_keeps_the_provider_id(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer(PENDING, ACTIVE) as server:
        result = await pair(runner, server, *port_of(vllm))

    assert result.exit_code == 0
    config = config_of()
    key_path = Path.cwd() / ".config/provider-agent/identity.key"
    key = load(key_path)
    assert config.coordinator.url == server.url.replace("http", "ws") + "/provider/connect"
    assert config.coordinator.dialect == "usepod"
    assert config.identity.key_path == key_path
    assert config.backends == (BackendConfig(kind="vllm", url=vllm.url),)
    assert config.pricing.default_input_per_1m == 500_000
    assert config.pricing.default_output_per_1m == 1_000_000
    assert config.pricing.models == {
        "qwen3:8b": Price(30_000, 60_000),
        "other": Price(1_000_000, 2_000_000),
    }
    assert config.limits.max_concurrent == 6
    assert mode_of("agent.toml") & 0o777 == 0o600
    assert read_provider_id(key_path) == PROVIDER_ID
    assert server.issues == [{"agent_pubkey": key.public_key_text}]
    assert server.polled[0]["capabilities"]["backends"] == [  # type: ignore[index]
        {"kind": "vllm", "url": vllm.url, "models": [LORA_ADAPTER, MODEL]}
    ]
    assert result.stderr == f"found vLLM at {vllm.url}: {LORA_ADAPTER}, {MODEL}\n"
    assert result.stdout.splitlines() == [
        f"code     {PAIR_CODE}",
        f"page     {server.url}/host/pair",
        "expires  in 10 minutes",
        "Paired.",
        "",
        f"settings     {Path.cwd() / 'agent.toml'} (1 server)",
        f"public key   {key.public_key_text}",
        f"key file     {key_path}",
        f"provider id  {PROVIDER_ID}",
        "activated    qwen3:8b: 0.03 USD in, 0.06 USD out per million tokens",
        "activated    other: 1.00 USD in, 2.00 USD out per million tokens",
        "",
        f"Also offered: 2 models that were not activated, at {PRICES}.",
        "To offer only some models, set `models` in [[backends]].",
        "",
        "Next:",
        "  provider-agent check",
        "  provider-agent run",
    ]


class _RustBackend(Struct, forbid_unknown_fields=True):
    kind: Literal["vllm", "llamacpp", "lmstudio", "ollama", "openrouter", "venice"]
    url: str | None = None
    api_key_env: str | None = None
    markup: float | None = None
    models: list[str] | None = None


class _RustPrice(Struct):
    input_per_1m: int
    output_per_1m: int


class _RustPricing(Struct):
    default_input_per_1m: int
    default_output_per_1m: int
    models: dict[str, _RustPrice] = {}


class _RustFile(Struct):
    """What the Rust agent requires of its file, with its defaults; unknown keys are ignored."""

    coordinator: dict[str, object]
    identity: dict[str, str]
    backends: list[_RustBackend]
    pricing: _RustPricing
    limits: dict[str, int]


async def test_file_and_key_are_readable_for_the_rust_agent(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    # So that an operator can go back to that agent.
    async with PairingServer(ACTIVE) as server:
        await pair(runner, server, *port_of(vllm))

    file = msgspec.convert(tomllib.loads(read("agent.toml")), _RustFile)
    assert str(file.coordinator["url"]).startswith("ws://127.0.0.1:")
    assert file.pricing.models["qwen3:8b"] == _RustPrice(30_000, 60_000)
    assert file.limits["max_concurrent"] == 6
    assert "input_per_1m = 30_000, output_per_1m = 60_000 }  # 0.03 USD, 0.06 USD\n" in read(
        "agent.toml"
    )
    lines = read(file.identity["key_path"]).splitlines()
    assert lines[0] == "-----BEGIN USEPOD AGENT KEY-----"
    assert [line.partition(":")[0] for line in lines[1:-1]] == [
        "version",
        "created",
        "secret",
        "public",
        "provider_id",
    ]


async def test_key_of_the_rust_agent_is_paired_and_stays_readable_for_it(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    name = ".usepod-agent/identity.key"
    write(name, rust_agent_file(SECRET, PUBLIC))
    before = read(name).splitlines()
    async with PairingServer(ACTIVE) as server:
        await pair(runner, server, *port_of(vllm))

    assert server.issues == [{"agent_pubkey": load(Path(name)).public_key_text}]
    assert config_of().identity.key_path == Path.cwd() / name
    assert read(name).splitlines() == [*before[:-1], f"provider_id: {PROVIDER_ID}", before[-1]]


async def test_without_activated_models_the_defaults_apply(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer({**ACTIVE, "model_config": []}) as server:
        result = await pair(runner, server, *port_of(vllm), "-c", "a b/x.toml")

    config = config_of("a b/x.toml")
    assert config.pricing.models == {}
    assert config.limits.max_concurrent == 4
    assert "\nNo model was activated on the page.\n" in result.stdout
    assert f"\nAlso offered: 2 models that were not activated, at {PRICES}.\n" in result.stdout
    assert result.stdout.endswith("  provider-agent run --config 'a b/x.toml'\n")


async def test_activated_model_without_a_price_has_the_default(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    models = [{"model_id": MODEL, "max_concurrent": 9_999}, {"model_id": LORA_ADAPTER}]
    async with PairingServer({**ACTIVE, "model_config": models}) as server:
        result = await pair(runner, server, *port_of(vllm))

    assert f"activated    {MODEL}: {PRICES}, the default\n" in result.stdout
    assert "Also offered" not in result.stdout
    assert config_of().pricing.models == {}
    assert config_of().limits.max_concurrent == 4096


async def test_pairing_without_a_server(runner: CliRunner) -> None:
    port = str(closed_port())
    async with PairingServer({**ACTIVE, "provider_id": None}) as server:
        result = await pair(runner, server, "--port", port)

    assert result.exit_code == 0
    assert f"no inference server answers on the port {port} of this machine; " in result.stderr
    assert "  add a [[backends]] table for each of your servers to agent.toml\n" in result.stdout
    assert "provider id" not in result.stdout
    assert config_of().backends == ()


async def test_server_that_requires_a_key_is_written_and_not_reported(runner: CliRunner) -> None:
    async with FakeVllm(api_key=KEY) as vllm, PairingServer(ACTIVE) as server:
        result = await pair(runner, server, *port_of(vllm))

    assert server.polled[0]["capabilities"]["backends"] == []  # type: ignore[index]
    assert "A server requires a key: export VLLM_API_KEY=…\n" in result.stdout
    assert config_of().backends[0].api_key_env == "VLLM_API_KEY"


async def test_existing_file_is_replaced_only_with_force(runner: CliRunner, vllm: FakeVllm) -> None:
    write("agent.toml", "mine")
    async with PairingServer(ACTIVE) as server:
        refused = await pair(runner, server, *port_of(vllm))
        assert refused.exit_code == 2
        assert refused.stderr == (
            "Error: agent.toml: the file exists; edit it, or replace it with --force\n"
        )
        assert (server.issues, vllm.requests) == ([], [])

        assert (await pair(runner, server, *port_of(vllm), "--force")).exit_code == 0
    assert config_of().coordinator.dialect == "usepod"


WRONG = "; check --coordinator-url; without pairing, use `provider-agent init`\n"
NO_PAIRING = ": the server does not pair agents (HTTP status 404)"
NETWORK = "; check --coordinator-url, the network and the proxy (HTTPS_PROXY), and try again\n"


@pytest.mark.parametrize(
    ("issue", "polls", "message"),
    [
        (
            None,
            [EXPIRED],
            "Error: the code has expired; run `provider-agent setup` for a new one\n",
        ),
        (
            json_answer({"error": "closed"}, 403),
            [],
            f"the server answered with HTTP status 403: closed{WRONG}",
        ),
        (json_answer({"error": "No such path."}, 404), [], f"{NO_PAIRING}{WRONG}"),
        (text_answer(b"", 404), [], f"{NO_PAIRING}{WRONG}"),
        # The message of the server was followed by ".;".
        (json_answer({"error": "Closed."}, 403), [], f"status 403: Closed{WRONG}"),
        (text_answer(b"", 503), [], f"HTTP status 503{NETWORK}"),
        (text_answer(b"<html>"), [], f"is not usable: it is not the expected JSON{NETWORK}"),
        (None, [json_answer({}, 401)], f"HTTP status 401{WRONG}"),
    ],
)
async def test_failed_pairing_is_one_message_and_writes_only_the_key(
    issue: object, polls: list[object], message: str, runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer(*polls, issue=issue) as server:
        result = await pair(runner, server, *port_of(vllm))

    assert result.exit_code == 1
    assert result.stderr.endswith(message)
    assert result.stderr.count("\n") == 2  # with the line about the found server
    assert [path.name for path in Path.cwd().iterdir()] == [".config"]


async def test_failing_polls_are_reported_once_and_repeated(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer(text_answer(b"", 502), text_answer(b"", 502), ACTIVE) as server:
        result = await pair(runner, server, *port_of(vllm))

    assert result.exit_code == 0
    assert result.stderr.count("retrying: the server answered with HTTP status 502\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--coordinator-url", "http://c.example"),
            "--coordinator-url: http:// would pair this agent unencrypted; use https://",
        ),
        (("--coordinator-url", "c.example"), "--coordinator-url: not an address; write it with"),
        (("--key-path", "a\nb"), "--key-path: it contains"),
        (("--key-path", "."), "cannot be read: Is a directory"),
        (("-c", "/dev/null/x"), "/dev/null/x: cannot be written"),
        (("-c", "/proc/agent.toml"), "/proc/agent.toml: cannot be written"),
        (("-c", ".", "--force"), "cannot be written: Is a directory"),
    ],
)
async def test_wrong_option_is_one_message_and_exit_code_2(
    arguments: tuple[str, ...], message: str, runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer(ACTIVE) as server:
        result = await pair(runner, server, *port_of(vllm), *arguments)

    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert server.issues == []


async def test_address_comes_from_the_variable_and_the_name_of_the_rust_agents_option_works(
    runner: CliRunner, vllm: FakeVllm
) -> None:
    async with PairingServer(ACTIVE) as server:
        variable = {"PROVIDER_AGENT_COORDINATOR_URL": server.url}
        assert (await setup(runner, *port_of(vllm), **variable)).exit_code == 0
        option = ("--coordinator", server.url, "--force")
        assert (await setup(runner, *port_of(vllm), *option)).exit_code == 0

    assert len(server.issues) == 2
