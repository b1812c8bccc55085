"""How connections open: addresses, names, happy eyeballs, TLS."""

import asyncio
import errno
import os
import socket
import ssl
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohappyeyeballs
import pytest

from provider_agent.adapters.errors import BackendTimeout, InvalidResponse, Unreachable
from provider_agent.adapters.http import dialer as dialer_module
from provider_agent.adapters.http import failures
from provider_agent.adapters.http.client import HttpRequest
from provider_agent.adapters.http.dialer import REMEMBER_S, SLOW_HANDSHAKE_S, Dialer
from provider_agent.adapters.http.direct_client import DirectClient
from provider_agent.adapters.http.server_address import parse_address
from tests.kit.certificates import DAY, CertificateAuthority, server_context
from tests.kit.loops import on_both_loops
from tests.kit.virtual_time import in_virtual_time, now
from tests.unit.adapters.http.recording_server import HELLO, Read, RecordingServer, exchange

handshake_fails = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""The server may not have closed the socket of the failed handshake when the event loop ends."""


@asynccontextmanager
async def listening(
    host: str = "127.0.0.1", context: ssl.SSLContext | None = None, response: bytes = HELLO
) -> AsyncIterator[int]:
    """Yield the port of a server that answers every request."""

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        while True:
            await read()
            writer.write(response)

    server = RecordingServer(answer, host, context)
    async with server.running():
        yield server.port


async def get(url: str) -> bytes:
    client = DirectClient(url, {}, reuse=True, remote=False, connect_s=5.0)
    try:
        return await exchange(client, HttpRequest("/x", {}, b""))
    finally:
        await client.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: tuple[str, int]) -> list[str]:
    """Let every name resolve to these addresses; return the names that are looked up."""
    names: list[str] = []

    async def getaddrinfo(
        _loop: asyncio.BaseEventLoop, host: str, _port: int, **_: object
    ) -> list[object]:
        names.append(host)
        return [
            info
            for host, port in hosts
            for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


# --- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_both_loops
async def test_address_needs_no_name_resolution(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = resolve_to(monkeypatch)
    async with listening(host) as port:
        assert await get(f"http://{f'[{host}]' if ':' in host else host}:{port}") == b"hello"
    assert names == []


@pytest.mark.parametrize(("listens", "refuses"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
async def test_next_address_is_tried_if_one_refuses(
    listens: str, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(listens) as port:
        resolve_to(monkeypatch, (refuses, port), (listens, port))
        assert await get(f"http://backend.example:{port}") == b"hello"


async def test_unreachable_host_with_several_addresses_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as port:
        pass
    resolve_to(monkeypatch, ("127.0.0.1", port), ("::1", port))
    with pytest.raises(Unreachable, match="connection refused"):
        await get(f"http://backend.example:{port}")


@in_virtual_time
async def test_address_that_worked_is_used_again_for_a_while() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with listening() as port:
            names = resolve_to(monkeypatch, ("127.0.0.1", port))
            dialer = Dialer(parse_address(f"http://backend.example:{port}"), 5.0)
            lookups = []
            for wait_s in (0, REMEMBER_S / 2, REMEMBER_S):
                await asyncio.sleep(wait_s)
                (await dialer.dial()).close()
                lookups.append(len(names))

    assert lookups == [1, 1, 2]


async def test_name_is_resolved_again_if_the_remembered_address_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as old:
        names = resolve_to(monkeypatch, ("127.0.0.1", old))
        dialer = Dialer(parse_address("http://backend.example:1"), 5.0)
        (await dialer.dial()).close()
    async with listening() as new:
        names.clear()
        resolve_to(monkeypatch, ("127.0.0.1", new))
        (await dialer.dial()).close()
        await asyncio.sleep(0)


async def hang(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


@in_virtual_time
async def test_name_is_resolved_again_if_the_remembered_address_does_not_answer() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with listening() as port:
            names = resolve_to(monkeypatch, ("127.0.0.1", port))
            dialer = Dialer(parse_address(f"http://backend.example:{port}"), 1.0)
            (await dialer.dial()).close()
            with monkeypatch.context() as silent:
                silent.setattr(socket.socket, "connect_ex", lambda *_: errno.EALREADY)
                silent.setattr(BaseSelectorEventLoop, "sock_connect", hang)
                with pytest.raises(BackendTimeout):
                    await dialer.dial()
            (await dialer.dial()).close()

    assert len(names) == 2


async def test_socket_that_the_server_resets_at_once_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sock = socket.socket()  # without a peer, like one that was reset

    async def start_connection(*_: object, **__: object) -> socket.socket:
        return sock

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    with pytest.raises(Unreachable):
        await Dialer(parse_address("http://127.0.0.1:1"), 5.0).dial()
    assert sock.fileno() == -1


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example"])
async def test_name_that_cannot_exist_is_unreachable(host: str) -> None:
    with pytest.raises(Unreachable):
        await get(f"http://{host}")


@in_virtual_time
async def test_name_resolution_counts_against_the_connect_timeout() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", hang)
        with pytest.raises(BackendTimeout, match="connect timeout"):
            await get("http://backend.example")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (socket.gaierror(-2, "x"), "no such host"),
        (ssl.SSLError(1, "x"), "TLS"),
        (ssl.SSLCertVerificationError(1, "x"), "TLS"),
        (OSError(errno.ENETUNREACH, "x"), os.strerror(errno.ENETUNREACH)),
        (TimeoutError(errno.ETIMEDOUT, "x"), os.strerror(errno.ETIMEDOUT)),
        (OSError("several"), "network error"),
    ],
)
async def test_failure_to_connect_is_described(
    error: OSError, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Dialer) -> None:
        raise error

    monkeypatch.setattr(Dialer, "_connect", fail)
    with pytest.raises(Unreachable, match=text) as caught:
        await get("http://host")
    assert caught.value.__cause__ is error


def test_texts_of_failures_name_the_timeout() -> None:
    assert "response in time" in str(failures.response_timeout())


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CertificateAuthority:
    """An authority that the client trusts."""
    created = CertificateAuthority(tmp_path)
    context = ssl.create_default_context(cafile=created.file)
    monkeypatch.setattr(dialer_module, "_tls_context", lambda: context)
    return created


@on_both_loops
async def test_response_over_tls_arrives(authority: CertificateAuthority) -> None:
    context = server_context(authority.issue("127.0.0.1"))
    async with listening(context=context) as port:
        assert await get(f"https://127.0.0.1:{port}") == b"hello"


@handshake_fails
async def test_server_name_is_sent_and_checked(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(authority.issue("backend.example"))
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with listening(context=context) as port:
        resolve_to(monkeypatch, ("127.0.0.1", port))
        assert await get(f"https://backend.example:{port}") == b"hello"
        with pytest.raises(Unreachable, match="certificate"):
            await get(f"https://other.example:{port}")

    assert names[0] == "backend.example"


@handshake_fails
@on_both_loops
async def test_expired_certificate_is_refused(authority: CertificateAuthority) -> None:
    context = server_context(authority.issue("127.0.0.1", valid_for=-DAY))
    async with listening(context=context) as port:
        with pytest.raises(Unreachable, match="TLS handshake failed"):
            await get(f"https://127.0.0.1:{port}")


@handshake_fails
@on_both_loops
async def test_unknown_authority_is_refused(tmp_path: Path) -> None:
    context = server_context(CertificateAuthority(tmp_path).issue("127.0.0.1"))
    async with listening(context=context) as port:
        with pytest.raises(Unreachable, match="TLS handshake failed"):
            await get(f"https://127.0.0.1:{port}")


@on_both_loops
async def test_server_that_speaks_plain_http_is_described() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="speaks plain HTTP, not TLS"):
            await get(f"https://127.0.0.1:{port}")


@in_virtual_time
async def test_silent_server_does_not_hold_the_handshake() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        closed.set()

    closed = asyncio.Event()
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BackendTimeout, match="connect timeout"):
            await get(f"https://127.0.0.1:{port}")
        await closed.wait()
        await asyncio.sleep(0)


def test_tls_context_is_created_once_and_verifies() -> None:
    context = dialer_module._tls_context()

    assert context is dialer_module._tls_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@in_virtual_time
async def test_server_without_tls_that_waits_for_a_line_is_detected_soon() -> None:
    # The message was that of the connect timeout, after 10 s.
    async with listening() as port:
        began = now()
        with pytest.raises(Unreachable, match="speaks plain HTTP, not TLS"):
            await get(f"https://127.0.0.1:{port}")
        assert now() - began == pytest.approx(SLOW_HANDSHAKE_S, abs=0.1)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"301 Moved Permanently"])
@in_virtual_time
async def test_slow_tls_server_that_refuses_plain_http_is_waited_for(status: bytes) -> None:
    # nginx answers so on a port for TLS.
    async with listening(response=b"HTTP/1.1 %b\r\n\r\n" % status) as port:
        with pytest.raises(BackendTimeout, match="connect timeout"):
            await get(f"https://127.0.0.1:{port}")


async def test_tls_alert_at_an_http_url_is_described() -> None:
    async with listening(response=b"\x15\x03\x03\x00\x02\x02\x46") as port:
        with pytest.raises(InvalidResponse, match="speaks TLS, not plain HTTP"):
            await get(f"http://127.0.0.1:{port}")
