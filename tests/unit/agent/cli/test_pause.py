"""Messages of `pause` and `resume` when the command does not reach an agent."""

from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner

from provider_agent.agent.availability.availability import Pause
from provider_agent.agent.availability.hours import AGENT
from provider_agent.agent.cli import status_client
from provider_agent.agent.cli.control_client import Signer, find_signer
from provider_agent.agent.cli.pause import pause
from provider_agent.agent.cli.status_client import NoAgent
from provider_agent.agent.control.pause_store import PauseStore
from provider_agent.agent.identity.key import Identity, IdentityError, load_or_create
from provider_agent.agent.identity.key_lock import hold_key_lock
from provider_agent.agent.telemetry.status import FINGERPRINT_HEADER
from tests.kit.cli_agent import READY, free_ports, other_http_server, status_server
from tests.kit.wrong_servers import closed_port
from tests.unit.agent.cli.calls import invoke_with_status_server

KEY = '[identity]\nkey_path = "identity.key"\n'


async def error(
    runner: CliRunner, *arguments: str, address: str = "127.0.0.1:8490", code: int = 1
) -> str:
    result = await invoke_with_status_server(runner, address, *arguments, config=KEY)
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr.strip()


@pytest.fixture
def identity(runner: CliRunner) -> Identity:  # in the folder of `runner`
    return load_or_create(Path("identity.key"))


@pytest.mark.usefixtures("identity")
async def test_no_agent_runs(runner: CliRunner) -> None:
    address = f"127.0.0.1:{closed_port()}"
    expected = f"no agent responds on {address}; is `provider-agent run` running?"
    assert expected in await error(runner, "pause", address=address)


@pytest.mark.usefixtures("identity")
async def test_stored_pauses_of_a_stopped_agent_are_named(runner: CliRunner) -> None:
    # Regression: nothing said that the agent would stay paused after its start.
    store = PauseStore(Path("identity.key"))
    store.save({AGENT: Pause(), "vllm:http://gpu": Pause()})
    address = f"127.0.0.1:{closed_port()}"
    reason = f"Error: no agent responds on {address}; is `provider-agent run` running?"
    assert await error(runner, "resume", address=address) == (
        f"{reason} It stays paused after its start (the agent, vllm:http://gpu): start it, then "
        "repeat this command."
    )
    with hold_key_lock(Path("identity.key")):  # an agent runs, maybe without a status server
        assert await error(runner, "resume", address=address) == reason
    store.save({})
    assert await error(runner, "resume", address=address) == reason


@pytest.mark.usefixtures("identity")
async def test_status_server_is_off(runner: CliRunner) -> None:
    message = await error(runner, "resume", address="off")
    assert "the status server is off; set [observability]" in message


@pytest.mark.usefixtures("identity")
async def test_status_server_is_not_on_loopback(runner: CliRunner) -> None:
    message = await error(runner, "pause", address="192.0.2.1:8490")
    assert "listens only on 192.0.2.1, but the agent accepts commands only over loopback" in message


async def test_key_is_missing(runner: CliRunner) -> None:
    message = await error(runner, "pause", code=2)
    assert "identity.key: the file does not exist; the key signs the command: run it as" in message


async def test_agent_of_an_older_version(runner: CliRunner, identity: Identity) -> None:
    async with status_server(fingerprint=identity.fingerprint) as address:
        expected = f"the agent on {address} is of an older version, which has no pauses"
        assert expected in await error(runner, "pause", address=address)


@pytest.mark.usefixtures("identity")
async def test_another_program_responds(runner: CliRunner) -> None:
    async with other_http_server() as address:
        message = await error(runner, "pause", address=address)
        assert f"another program responds on {address}" in message


@pytest.mark.parametrize(
    "text", ["", "2", "0m", "2 h", "-1h", "1w", "1.5h", "30m1h", "367d", "366d1m"]
)
async def test_wrong_duration(text: str, runner: CliRunner) -> None:
    message = await error(runner, "pause", "--for", text, code=2)
    assert "expected minutes, hours or days, such as 30m, 1h30m or 1d, at most 366d" in message


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1h30m", 5400), ("1d2h", 93_600)])
def test_durations(text: str, seconds: float) -> None:
    """`1h30m` was refused."""
    context = pause.make_context("pause", ["--for", text])
    assert context.params["for_s"] == seconds


# --- the agent of an installed service -----------------------------------------------------------


async def test_agent_of_the_service_is_found_by_its_own_key(tmp_path: Path) -> None:
    # Regression: "no agent responds", because root's own key is not that of the service.
    own, service = tmp_path / "own.key", tmp_path / "service.key"
    load_or_create(own)
    identity = load_or_create(service)
    async with status_server(fingerprint=identity.fingerprint) as address:
        for key_path in (own, tmp_path / "missing.key"):
            found = await find_signer(address, key_path, service, "pause")
            assert (found.address, found.identity.fingerprint) == (address, identity.fingerprint)
            assert found.note == f"this is the service's agent {identity.fingerprint} on {address}"


async def test_own_agent_is_preferred_to_that_of_the_service(tmp_path: Path) -> None:
    own, service = load_or_create(tmp_path / "own.key"), load_or_create(tmp_path / "service.key")
    ports = free_ports(2)
    addresses = f"{ports[0]}-{ports[-1]}"
    async with (
        status_server(ports=addresses, fingerprint=service.fingerprint),
        status_server(ports=addresses, fingerprint=own.fingerprint) as address,
    ):
        found = await find_signer(
            f"127.0.0.1:{addresses}", tmp_path / "own.key", tmp_path / "service.key", "pause"
        )
        assert isinstance(found, Signer)
        assert (found.address, found.note) == (address, "")


@pytest.mark.parametrize("has_own_key", [True, False])
async def test_key_of_the_service_needs_root(
    tmp_path: Path, has_own_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, service = tmp_path / "own.key", tmp_path / "service.key"
    if has_own_key:
        load_or_create(own)
    opened = Path.open

    def open_as_user(path: Path, *arguments: object, **named: object) -> object:
        if path == service:  # its folder has the mode 0700, but tests may run as root
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_as_user)
    async with status_server(fingerprint="other") as address:
        with pytest.raises(IdentityError) as caught:
            await find_signer(address, own, service, "pause")
    assert caught.value.problem == (
        f"this user cannot read the key of the agent other on {address}, which signs the command"
    )
    assert caught.value.advice.startswith("if it is the system's service: sudo /")
    assert caught.value.advice.endswith("provider-agent pause")


@pytest.mark.parametrize("service_key", [None, Path("/missing/identity.key")])
async def test_agent_with_another_key(tmp_path: Path, service_key: Path | None) -> None:
    own = tmp_path / "identity.key"
    load_or_create(own)
    async with status_server(fingerprint="other") as address:
        with pytest.raises(NoAgent) as caught:
            await find_signer(address, own, service_key, "pause")
    assert str(caught.value) == (
        f"no agent runs with the key {own}; other agents: other on {address}; "
        "run the command as the user of the agent, with its configuration (--config)"
    )


async def test_endless_reply_is_not_read_into_memory(
    runner: CliRunner, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_client, "_MAX_BYTES", 1000)
    headers = {FINGERPRINT_HEADER: identity.fingerprint}

    async def respond(request: web.BaseRequest) -> web.Response:
        body = b" " * 2000 if request.method == "POST" else b""
        return web.Response(body=body + msgspec.json.encode(READY), headers=headers)

    server = web.ServerRunner(web.Server(respond), shutdown_timeout=0)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        address = f"127.0.0.1:{server.addresses[0][1]}"
        assert f"another program responds on {address}" in await error(
            runner, "pause", address=address
        )
    finally:
        await server.cleanup()
