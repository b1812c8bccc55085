"""Messages of `pause` and `resume` when the command does not reach an agent."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.agent.identity.key import Identity, load_or_create
from tests.kit.cli_agent import free_ports, other_http_server, status_server
from tests.kit.cli_process import run_command

KEY = '[identity]\nkey_path = "identity.key"\n'


def write_config(home: Path, address: str) -> None:
    text = f'{KEY}[observability]\nprometheus_addr = "{address}"\n'
    (home / "agent.toml").write_text(text, "utf-8")


async def error(home: Path, *arguments: str, code: int = 1) -> str:
    result = await run_command(*arguments, home=home)
    assert (result.code, result.out) == (code, "")
    return result.err.strip()


async def test_no_agent_runs(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    ports = free_ports(1)
    write_config(tmp_path, f"127.0.0.1:{ports[0]}")
    expected = f"no agent responds on 127.0.0.1:{ports[0]}; is `provider-agent run` running?"
    assert expected in await error(tmp_path, "pause")


async def test_status_server_is_off(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    write_config(tmp_path, "off")
    assert "the status server is off; set [observability]" in await error(tmp_path, "resume")


async def test_status_server_is_not_on_loopback(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    write_config(tmp_path, "192.0.2.1:8490")
    message = await error(tmp_path, "pause")
    assert "listens only on 192.0.2.1, but the agent accepts commands only over loopback" in message


async def test_key_is_missing(tmp_path: Path) -> None:
    write_config(tmp_path, "127.0.0.1:8490")
    message = await error(tmp_path, "pause", code=2)
    assert "identity.key: the file does not exist; the key signs the command: run it as" in message


async def test_agent_with_another_key(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    other = Identity(Ed25519PrivateKey.generate()).fingerprint
    async with status_server(fingerprint=other) as address:
        write_config(tmp_path, address)
        expected = f"the agent on {address} has another key than this configuration"
        assert expected in await error(tmp_path, "pause")


async def test_agent_of_an_older_version(tmp_path: Path) -> None:
    identity = load_or_create(tmp_path / "identity.key")
    async with status_server(fingerprint=identity.fingerprint) as address:
        write_config(tmp_path, address)
        expected = f"the agent on {address} is of an older version, which has no pauses"
        assert expected in await error(tmp_path, "pause")


async def test_another_program_responds(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    async with other_http_server() as address:
        write_config(tmp_path, address)
        assert f"another program responds on {address}" in await error(tmp_path, "pause")


@pytest.mark.parametrize("text", ["2", "0m", "2 h", "-1h", "1w", "1.5h", "367d", "forever"])
async def test_wrong_duration(text: str, tmp_path: Path) -> None:
    write_config(tmp_path, "127.0.0.1:8490")
    message = await error(tmp_path, "pause", "--for", text, code=2)
    assert "expected 30m, 2h or 1d, at most 366d" in message
