"""Dialing with TLS: generated certificates, on the event loops of asyncio and uvloop."""

import asyncio
import datetime
import logging
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed
from provider_agent.protocol.limits import SUBPROTOCOL
from tests.kit.certificates import CertificateAuthority, server_context
from tests.kit.connect_proxy import ConnectProxy
from tests.kit.loops import on_both_loops

HOST = "coordinator.test"
PASSWORD = "proxy-password"


@asynccontextmanager
async def server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Yield the port of a server that only completes the upgrade."""

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(
        handle,
        "127.0.0.1",
        0,
        ssl=context,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
    ) as listening:
        yield next(iter(listening.sockets)).getsockname()[1]


async def outcome(settings: DialSettings) -> Disconnect | None:
    """Return how dialing failed; None if it succeeded."""
    try:
        connection = await dial(settings, SUBPROTOCOL)
    except DialFailed as failed:
        return failed.disconnect
    await connection.close()
    return None


def settings_for(
    port: int, ca_file: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> DialSettings:
    return DialSettings(
        url=f"wss://127.0.0.1:{port}/x",
        ca_file=ca_file,
        client_cert_file=cert,
        client_key_file=key,
    )


@on_both_loops
async def test_ca_file_replaces_the_authorities_of_the_system(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    async with server(server_context(authority.issue("127.0.0.1"))) as port:
        assert await outcome(settings_for(port, authority.file)) is None
        other = CertificateAuthority(tmp_path, "other")
        for ca_file in (None, other.file):
            disconnect = await outcome(settings_for(port, ca_file))
            assert disconnect is not None
            assert disconnect.cause is DisconnectCause.BAD_CERTIFICATE
            assert disconnect.detail.startswith("the server certificate is invalid: ")


@pytest.mark.parametrize(
    ("host", "days", "reason"),
    [("127.0.0.2", 1, "IP address mismatch"), ("127.0.0.1", -1, "certificate has expired")],
)
@on_both_loops
async def test_certificate_of_another_host_or_time_is_invalid(
    tmp_path: Path, host: str, days: int, reason: str
) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue(host, valid_for=datetime.timedelta(days=days))
    async with server(server_context(certificate)) as port:
        disconnect = await outcome(settings_for(port, authority.file))
    assert disconnect is not None
    assert disconnect.cause is DisconnectCause.BAD_CERTIFICATE
    assert reason in disconnect.detail


@on_both_loops
async def test_ca_file_is_read_at_every_dial(tmp_path: Path) -> None:
    authority, old = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path, "old")
    ca_file = tmp_path / "ca.pem"
    async with server(server_context(authority.issue("127.0.0.1"))) as port:
        settings = settings_for(port, ca_file)
        ends = [await outcome(settings)]
        for content in (old.file, authority.file):
            shutil.copyfile(content, ca_file)
            ends.append(await outcome(settings))
    missing = f"[coordinator] ca_file {ca_file}: No such file or directory"
    assert ends[0] == Disconnect(DisconnectCause.LOST, missing)
    assert ends[1] is not None
    assert ends[1].cause is DisconnectCause.BAD_CERTIFICATE
    assert ends[2] is None


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_client_certificate_is_sent_on_request(
    tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    authority = CertificateAuthority(tmp_path)
    client = authority.issue("client")
    context = server_context(authority.issue("127.0.0.1"), client_ca=authority.file, newest=newest)
    async with server(context) as port:
        assert await outcome(settings_for(port, authority.file, client)) is None
        separate_key = settings_for(port, authority.file, client, client.with_suffix(".key"))
        assert await outcome(separate_key) is None


@on_both_loops
async def test_refused_client_certificate_is_unauthorized(tmp_path: Path) -> None:
    # In an earlier version, such a refusal was reported as a server that does not support
    # WebSocket.
    authority, other = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path, "unknown")
    context = server_context(authority.issue("127.0.0.1"), client_ca=authority.file)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def refused(certificate: Path | None) -> Disconnect | None:
            refusing = asyncio.to_thread(_refuse, listener, context)
            disconnect, _ = await asyncio.gather(
                outcome(settings_for(port, authority.file, certificate)), refusing
            )
            return disconnect

        missing = await refused(None)
        unknown = await refused(other.issue("client"))
        expired = await refused(authority.issue("client", valid_for=-datetime.timedelta(days=1)))
    ends = [missing, unknown, expired]
    assert [end and end.cause for end in ends] == [DisconnectCause.UNAUTHORIZED] * 3
    assert [end and end.detail.partition(": ")[2].partition(";")[0] for end in ends] == [
        "a certificate is required",
        "unknown certificate authority",
        "expired",
    ]


def _refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
    """End a handshake with an alert, which servers of asyncio do not send."""
    raw, _ = listener.accept()
    with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as connection:
        with pytest.raises(ssl.SSLError):
            connection.do_handshake()
        connection.shutdown(socket.SHUT_WR)
        # Closing with unread data would reset the connection and discard the alert.
        while os.read(connection.fileno(), 4096):
            pass


# --- through a proxy ------------------------------------------------------------------------------


@on_both_loops
async def test_tls_works_through_a_proxy_without_logging_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authority = CertificateAuthority(tmp_path)
    async with server(server_context(authority.issue(HOST))) as port:
        routes = {f"{HOST}:443": port, "other.test:443": port}
        async with ConnectProxy(routes, user=f"agent:{PASSWORD}") as proxy:
            address = f"http://agent:{PASSWORD}@127.0.0.1:{proxy.port}"
            good = DialSettings(url=f"wss://{HOST}/x", ca_file=authority.file, proxy=address)
            assert await outcome(good) is None
            other = DialSettings(url="wss://other.test/x", ca_file=authority.file, proxy=address)
            mismatch = await outcome(other)
            assert mismatch is not None
            assert mismatch.cause is DisconnectCause.BAD_CERTIFICATE
            assert proxy.request_lines[0] == f"CONNECT {HOST}:443 HTTP/1.1"
            wrong = DialSettings(
                url=good.url, ca_file=authority.file, proxy=address.replace("agent", "stranger")
            )
            refused = await outcome(wrong)
    assert refused is not None
    assert (refused.cause, "proxy" in refused.detail) == (DisconnectCause.UPGRADE_REFUSED, True)
    shown = f"{caplog.records} {caplog.text} {mismatch} {refused} {good!r}"
    assert PASSWORD not in shown
    assert "Basic" not in caplog.text


@pytest.mark.parametrize("host", [HOST, f"{HOST}."])
@on_both_loops
async def test_server_name_is_sent_without_trailing_dot_and_alpn_is_not_used(
    tmp_path: Path, host: str
) -> None:
    # In an earlier version, certificates were rejected if the host in the URL had a trailing dot.
    authority = CertificateAuthority(tmp_path)
    context = server_context(authority.issue(HOST))
    context.set_alpn_protocols(["http/1.1"])
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with server(context) as port, ConnectProxy({f"{host}:443": port}) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        settings = DialSettings(url=f"wss://{host}/x", ca_file=authority.file, proxy=address)
        connection = await dial(settings, SUBPROTOCOL)
        tls = connection.transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() is None
        await connection.close()
    assert names == [HOST]


async def test_cancelling_behind_a_proxy_closes_the_connection(tmp_path: Path) -> None:
    arrived, disconnected = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        arrived.set()
        await reader.read()
        writer.close()
        disconnected.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        routes = {f"{HOST}:443": listening.sockets[0].getsockname()[1]}
        async with ConnectProxy(routes) as proxy:
            settings = DialSettings(url=f"wss://{HOST}/x", proxy=f"http://127.0.0.1:{proxy.port}")
            dialing = asyncio.create_task(dial(settings, SUBPROTOCOL))
            await arrived.wait()
            dialing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialing
            await disconnected.wait()
