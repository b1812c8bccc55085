"""How coordinators authenticate at a real NATS server, and what the server refuses."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace
from nats.aio.client import Client

from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.cluster.view import SILENT_INTERVALS
from provider_agent.coordinator.server import Coordinator
from tests.kit.certificates import CertificateAuthority
from tests.kit.cluster_harness import INTERVAL_S, member_of, wait_until
from tests.kit.coordinator_harness import CHAT, JSON_HEADERS, NO_HEARTBEATS, NO_TIMEOUT
from tests.kit.nats_accounts import NatsAccount
from tests.kit.nats_server import NatsServer, nats_server
from tests.kit.scripted_agent import ScriptedAgent

SUBJECTS = "provider-agent.1.>"


def _coordinator(url: str, **cluster: object) -> Coordinator:
    settings = ClusterSettings(urls=(url,), interval_s=INTERVAL_S, **cluster)  # type: ignore[arg-type]
    return Coordinator(replace(NO_HEARTBEATS, cluster=settings))


async def _answer_a_remote_request(edge: Coordinator, holder: Coordinator) -> None:
    """Wait until the coordinators know each other, and send a request from one to the other."""
    async with (
        ScriptedAgent(holder.connect_url) as agent,
        aiohttp.ClientSession(edge.http_url, headers=JSON_HEADERS, timeout=NO_TIMEOUT) as client,
    ):
        await wait_until(lambda: bool(member_of(edge).agents()))
        asking = asyncio.create_task(client.post(CHAT, data=b'{"model":"tiny"}'))
        await (await agent.next_job()).answer(b"answer")
        response = await asking
        assert await response.read() == b"answer"


def _cluster_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(record)) for record in caplog.records if record.message == "cluster error"]


def _tls_arguments(authority: CertificateAuthority) -> list[str]:
    certificate = authority.issue("localhost")
    key = certificate.with_suffix(".key")
    files = {"--tlscert": certificate, "--tlskey": key, "--tlscacert": authority.file}
    return ["--tlsverify", *(f"{option}={file}" for option, file in files.items())]


async def test_coordinators_find_each_other_with_client_certificates(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    async with nats_server(*_tls_arguments(authority)) as server:
        url = f"tls://localhost:{server.port}"
        async with (
            _coordinator(url, ca_file=authority.file, certificate=one) as edge,
            _coordinator(
                url, ca_file=authority.file, certificate=two, key=two.with_suffix(".key")
            ) as holder,
        ):
            await _answer_a_remote_request(edge, holder)


async def test_renewed_client_certificate_is_used_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The coordinator read its files once, and connected with the old certificate until a restart.
    authority = CertificateAuthority(tmp_path)
    (tmp_path / "other").mkdir()
    foreign = CertificateAuthority(tmp_path / "other").issue("one")
    file = tmp_path / "client.pem"
    file.write_bytes(foreign.read_bytes())
    async with nats_server(*_tls_arguments(authority)) as server:
        url = f"tls://localhost:{server.port}"
        async with _coordinator(url, ca_file=authority.file, certificate=file) as coordinator:
            await wait_until(lambda: "UNKNOWN_CA" in str(_cluster_errors(caplog)))
            file.write_text("half written")
            await wait_until(lambda: "cannot be read" in str(_cluster_errors(caplog)))
            file.write_bytes(authority.issue("one").read_bytes())
            await wait_until(lambda: member_of(coordinator).is_connected)


async def test_server_that_requires_a_client_certificate_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = CertificateAuthority(tmp_path)
    async with nats_server(*_tls_arguments(authority)) as server:
        url = f"tls://localhost:{server.port}"
        async with _coordinator(url, ca_file=authority.file) as coordinator:
            await wait_until(lambda: "CERTIFICATE_REQUIRED" in str(_cluster_errors(caplog)))
            assert not member_of(coordinator).is_connected


async def test_cluster_works_with_credentials_that_allow_only_its_subjects(tmp_path: Path) -> None:
    account = NatsAccount()
    config = account.write_server_config(tmp_path / "nats.conf")
    async with nats_server("--config", str(config)) as server:
        one = account.write_user(tmp_path / "one.creds", SUBJECTS)
        two = account.write_user(tmp_path / "two.creds", SUBJECTS)
        async with (
            _coordinator(server.url, credentials=one) as edge,
            _coordinator(server.url, credentials=two) as holder,
        ):
            await _answer_a_remote_request(edge, holder)


async def test_expired_credentials_are_logged_and_renewed_ones_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The NATS client closed itself without a report, and the log did not contain the reason.
    account = NatsAccount()
    config = account.write_server_config(tmp_path / "nats.conf")
    file = account.write_user(tmp_path / "one.creds", expires_at=time.time() + 2)
    async with (
        nats_server("--config", str(config)) as server,
        _coordinator(server.url, credentials=file) as coordinator,
    ):
        await wait_until(lambda: member_of(coordinator).is_connected)
        await wait_until(lambda: "user authentication expired" in str(_cluster_errors(caplog)))
        await wait_until(lambda: "Authorization Violation" in str(_cluster_errors(caplog)))
        file.write_text("")  # the NATS client read such a file in a loop without an end
        await wait_until(lambda: "is not the credentials file" in str(_cluster_errors(caplog)))
        account.write_user(file)
        await wait_until(lambda: member_of(coordinator).is_connected)


def _documented_configuration(first_word: str) -> str:
    """Return a configuration of NATS from the page about clusters."""
    page = Path("docs/scaling.md").read_text()
    found = re.search(rf"```text\n({first_word} \{{\n.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


@contextlib.asynccontextmanager
async def _documented_cluster(
    first_word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[NatsServer, Coordinator]]:
    """Start NATS with a documented configuration, and two coordinators that serve one request."""
    config = tmp_path / "nats.conf"
    config.write_text(_documented_configuration(first_word))
    monkeypatch.setenv("COORDINATORS_PASSWORD", "first-secret")
    monkeypatch.setenv("OTHER_PASSWORD", "other-secret")
    async with nats_server("--config", str(config)) as server:
        url = server.url.replace("//", "//coordinators:first-secret@")
        async with _coordinator(url) as edge, _coordinator(url) as holder:
            await _answer_a_remote_request(edge, holder)
            yield server, edge


async def test_documented_permissions_suffice_and_keep_other_users_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with _documented_cluster("authorization", tmp_path, monkeypatch) as (server, edge):
        for subject in ("provider-agent.1.agents", f"provider-agent.1.to.{'0' * 32}"):
            await _is_refused(server, subject)
        await _receives_no_snapshot(server, member_of(edge))
    assert not _cluster_errors(caplog)


async def test_documented_accounts_separate_coordinators_and_applications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _documented_cluster("accounts", tmp_path, monkeypatch) as (server, edge):
        await _receives_no_snapshot(server, member_of(edge))


async def _other_user(
    server: NatsServer, on_error: Callable[[Exception], Coroutine[None, None, None]] | None = None
) -> Client:
    url = server.url.replace("//", "//other:other-secret@")
    other = Client()
    await other.connect(url, error_cb=on_error, allow_reconnect=False)
    return other


async def _is_refused(server: NatsServer, subject: str) -> None:
    """Check that the user `other` may neither publish to a subject nor subscribe to it."""
    refused: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refused.put_nowait(str(error).lower())

    other = await _other_user(server, on_error)
    await other.publish(subject, b"")
    assert f'permissions violation for publish to "{subject}"' in await refused.get()
    await other.subscribe(subject)
    assert f'permissions violation for subscription to "{subject}"' in await refused.get()
    await other.close()


async def _receives_no_snapshot(server: NatsServer, member: ClusterMember) -> None:
    """Check that the user `other` does not receive with a wildcard what a coordinator sends."""
    other = await _other_user(server)
    everything = await other.subscribe(">")
    await other.flush()
    revision = member.revision
    await wait_until(lambda: member.revision > revision + 2)
    await other.publish("own.subject", b"")
    assert (await everything.next_msg(timeout=30)).subject == "own.subject"
    await other.close()


async def test_coordinator_with_a_mistyped_prefix_reports_that_it_is_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # It was alone in a cluster of its own, and nothing said so.
    caplog.set_level(logging.INFO)
    async with nats_server("--user", "u", "--pass", "secret") as server:
        url = server.url.replace("//", "//u:secret@")
        async with (
            _coordinator(url) as one,
            _coordinator(url) as two,
            _coordinator(url, prefix="provider-agnet") as alone,
        ):
            await wait_until(lambda: len(member_of(one).view) == 1 == len(member_of(two).view))
            await wait_until(lambda: "no other coordinator found" in caplog.messages)
            revision = member_of(alone).revision
            await wait_until(lambda: member_of(alone).revision > revision + SILENT_INTERVALS)
    [reported] = (r for r in caplog.records if r.message == "no other coordinator found")
    assert vars(reported)["fields"] == {"prefix": "provider-agnet", "servers": [server.url]}
    connected = [vars(r)["fields"] for r in caplog.records if r.message == "cluster connected"]
    assert {fields["prefix"] for fields in connected} == {"provider-agent", "provider-agnet"}
    assert {fields["server"] for fields in connected} == {server.url}


def _server_that_sends(
    connections: asyncio.Queue[None], first: bytes, after_connect: bytes = b""
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.put_nowait(None)
        writer.write(first)
        if after_connect:
            await reader.readuntil(b"PING\r\n")
            writer.write(after_connect)
        await reader.read(1)
        writer.transport.abort()

    return serve


@pytest.mark.parametrize(
    "sent",
    [
        (b"INFO []\r\n",),
        (b"INFO " + b"x" * 200_000 + b"\r\n",),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (b'INFO {"max_payload":1048576}\r\n', b"PONG\r\nno command\r\n"),
        (b'INFO {"max_payload":1048576}\r\n', b"PONG\r\n-ERR 'reason'\r\n"),
    ],
)
async def test_coordinator_tries_again_after_nonsense_from_the_server(
    sent: tuple[bytes, ...],
) -> None:
    # Some of it ended the task that connects, and some the stop of the coordinator with an error.
    connections: asyncio.Queue[None] = asyncio.Queue()
    server = await asyncio.start_server(_server_that_sends(connections, *sent), "127.0.0.1", 0)
    async with server, _coordinator(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"):
        for _ in range(3):
            await connections.get()
