import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidHandshake, ProxyError

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed, explain
from provider_agent.protocol.limits import SUBPROTOCOL
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time, now


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


async def failure(settings: DialSettings) -> Disconnect:
    with pytest.raises(DialFailed) as caught:
        await dial(settings, SUBPROTOCOL)
    return caught.value.disconnect


async def dial_and_close(settings: DialSettings) -> None:
    await (await dial(settings, SUBPROTOCOL)).close()


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("wss://C.example/provider/connect", "c.example:443"),
        ("ws://127.0.0.1:8080/x", "127.0.0.1:8080"),
        ("wss://[::1]:9000/", "[::1]:9000"),
    ],
)
def test_signed_authority_is_the_dialed_one(url: str, authority: str) -> None:
    assert DialSettings(url=url).authority == authority


async def test_upgrade_request_has_subprotocol_and_user_agent_and_no_extensions(
    coordinator: ScriptedCoordinator,
) -> None:
    connection = await dial(DialSettings(url=coordinator.url), SUBPROTOCOL)
    assert connection.subprotocol == SUBPROTOCOL
    await connection.close()
    (headers,) = coordinator.upgrades
    assert headers["sec-websocket-protocol"] == SUBPROTOCOL
    assert headers["user-agent"].startswith("provider-agent/")
    assert "sec-websocket-extensions" not in headers
    assert "authorization" not in headers


# --- responses of the server ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "cause", "retry_after_s"),
    [
        (401, {}, DisconnectCause.UNAUTHORIZED, None),
        (403, {}, DisconnectCause.UNAUTHORIZED, None),
        (404, {}, DisconnectCause.UPGRADE_REFUSED, None),
        (426, {}, DisconnectCause.UPGRADE_REFUSED, None),
        (429, {"Retry-After": "17"}, DisconnectCause.TOLD_TO_WAIT, 17.0),
        (429, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, DisconnectCause.TOLD_TO_WAIT, None),
        (500, {}, DisconnectCause.UPGRADE_REFUSED, None),
        (502, {"Retry-After": "9"}, DisconnectCause.UPGRADE_REFUSED, 9.0),
        (503, {}, DisconnectCause.TOLD_TO_WAIT, None),
        (503, {"Retry-After": "-1"}, DisconnectCause.TOLD_TO_WAIT, None),
    ],
)
async def test_http_status_instead_of_an_upgrade_maps_to_a_cause(
    coordinator: ScriptedCoordinator,
    status: int,
    headers: dict[str, str],
    cause: DisconnectCause,
    retry_after_s: float | None,
) -> None:
    coordinator.refusals.append((status, headers))
    disconnect = await failure(DialSettings(url=coordinator.url))
    assert (disconnect.cause, disconnect.retry_after_s) == (cause, retry_after_s)
    assert f"HTTP status {status}" in disconnect.detail


@pytest.mark.parametrize(
    ("path", "status", "hinted"),
    [("", 200, True), ("/", 403, True), ("/x", 404, True), ("/x", 200, False), ("/x", 403, False)],
)
async def test_status_that_a_wrong_path_causes_has_a_hint(
    coordinator: ScriptedCoordinator, path: str, status: int, hinted: bool
) -> None:
    coordinator.refusals.append((status, {}))
    url = urlsplit(coordinator.url)._replace(path=path).geturl()
    disconnect = await failure(DialSettings(url=url))
    assert ("often /provider/connect" in disconnect.detail) is hinted


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed(coordinator: ScriptedCoordinator, status: int) -> None:
    async with ScriptedCoordinator() as elsewhere:
        coordinator.refusals.append((status, {"Location": elsewhere.url}))
        disconnect = await failure(DialSettings(url=coordinator.url))
        assert disconnect == Disconnect(
            DisconnectCause.UPGRADE_REFUSED,
            f"the server answered the upgrade with HTTP status {status}",
        )
        assert elsewhere.upgrades == []


@pytest.mark.parametrize("selected", [None, "other.v7"])
async def test_upgrade_without_the_agents_subprotocol_counts_as_refused(
    coordinator: ScriptedCoordinator, selected: str | None
) -> None:
    coordinator.subprotocol = selected
    disconnect = await failure(DialSettings(url=coordinator.url))
    assert disconnect.cause is DisconnectCause.UPGRADE_REFUSED
    assert "subprotocol" in disconnect.detail or SUBPROTOCOL in disconnect.detail
    if coordinator.connections:
        await coordinator.connections[0].closed.wait()


async def test_refused_connection_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        port = freed.getsockname()[1]
    disconnect = await failure(DialSettings(url=f"ws://127.0.0.1:{port}/"))
    assert disconnect == Disconnect(
        DisconnectCause.LOST, "connection refused; is the coordinator running there?"
    )


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", DisconnectCause.LOST),
        (b"SSH-2.0-OpenSSH_9.6\r\n", DisconnectCause.UPGRADE_REFUSED),
        (b"HTTP/1.1 200 OK\r\n\r\n", DisconnectCause.UPGRADE_REFUSED),
    ],
)
async def test_answer_of_another_server_maps_to_a_cause(
    answer: bytes, cause: DisconnectCause
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await failure(DialSettings(url=f"ws://127.0.0.1:{port}/"))).cause is cause


@in_virtual_time
async def test_upgrade_without_a_response_times_out() -> None:
    disconnected = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        disconnected.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        began = now()
        disconnect = await failure(DialSettings(url=f"ws://127.0.0.1:{port}/"))
        text = (
            "connected, but no response to the upgrade within 15 s; "
            "check that [coordinator] url is the address of a coordinator"
        )
        assert disconnect == Disconnect(DisconnectCause.LOST, text)
        assert now() - began == pytest.approx(15)
        await disconnected.wait()


async def test_cancelling_closes_the_connection() -> None:
    arrived, disconnected = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()
        disconnected.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dialing = asyncio.create_task(
            dial(DialSettings(url=f"ws://127.0.0.1:{port}/"), SUBPROTOCOL)
        )
        await arrived.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await disconnected.wait()


# --- the operator's files -------------------------------------------------------------------------


async def test_token_file_is_read_at_every_dial_and_sent_as_bearer(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    settings = DialSettings(url=coordinator.url, token_file=token_file)
    for token in ("first", "second"):
        token_file.write_text(f"  {token}\n", encoding="ascii")
        await dial_and_close(settings)
    sent = [headers["authorization"] for headers in coordinator.upgrades]
    assert sent == ["Bearer first", "Bearer second"]


async def test_missing_token_file_is_named_and_is_read_at_the_next_dial(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    settings = DialSettings(url=coordinator.url, token_file=token_file)
    disconnect = await failure(settings)
    assert disconnect == Disconnect(
        DisconnectCause.LOST,
        f"[coordinator] token_file {token_file}: it cannot be read: No such file or directory",
    )
    assert coordinator.upgrades == []
    token_file.write_text("now", encoding="ascii")
    await dial_and_close(settings)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"secret\nX-Evil: 1", b"sec\x00ret", "secrét".encode(), b"\xff\xfe"]
)
async def test_unusable_token_is_neither_sent_nor_quoted(
    coordinator: ScriptedCoordinator, tmp_path: Path, content: bytes
) -> None:
    token_file = tmp_path / "token"
    token_file.write_bytes(content)
    disconnect = await failure(DialSettings(url=coordinator.url, token_file=token_file))
    assert disconnect.cause is DisconnectCause.LOST
    reason = "it does not hold a token" if content.strip() else "it is empty"
    assert reason in disconnect.detail
    assert "sec" not in disconnect.detail
    assert coordinator.upgrades == []


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_unusable_ca_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    disconnect = await failure(DialSettings(url="wss://127.0.0.1:1/", ca_file=ca_file))
    assert disconnect.cause is DisconnectCause.LOST
    assert disconnect.detail.startswith(f"[coordinator] ca_file {ca_file}: ")


# --- proxies --------------------------------------------------------------------------------------


async def test_loopback_coordinator_is_dialed_without_the_proxy(
    coordinator: ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    await dial_and_close(DialSettings(url=coordinator.url, proxy="http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "the proxy refused the connection with HTTP status 403",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "the response is not that of an HTTP proxy; is the proxy's address right?",
        ),
    ],
)
async def test_remote_coordinator_is_dialed_through_the_proxy(response: bytes, detail: str) -> None:
    requests: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        disconnect = await failure(DialSettings(url="ws://c.example:81/", proxy=address))
    assert disconnect == Disconnect(DisconnectCause.UPGRADE_REFUSED, detail)
    assert requests[0].startswith(b"CONNECT c.example:81 HTTP/1.1\r\n")


@pytest.mark.parametrize("from_environment", [True, False])
async def test_proxy_that_refuses_connections_is_named(
    monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    # Regression: the message was "connection refused; is the coordinator running there?".
    proxy = "http://user:p@ss@127.0.0.1:1"
    settings = DialSettings(url="wss://c.example/")
    if from_environment:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    else:
        settings = DialSettings(url="wss://c.example/", proxy=proxy)
    disconnect = await failure(settings)
    expected = (
        "the proxy 127.0.0.1:1 cannot be reached (connection refused); "
        "check [coordinator] proxy or HTTPS_PROXY"
    )
    assert disconnect == Disconnect(DisconnectCause.LOST, expected)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1", "nonsense"])
async def test_unusable_proxy_counts_as_a_lost_connection(proxy: str) -> None:
    # In an earlier version, an ALL_PROXY for SOCKS ended the agent with an ImportError.
    disconnect = await failure(DialSettings(url="ws://c.example:81/", proxy=proxy))
    assert disconnect.cause is DisconnectCause.LOST
    assert "proxy" in disconnect.detail


# --- errors ------------------------------------------------------------------------------------


def verification_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "cause", "text"),
    [
        (verification_error(), DisconnectCause.BAD_CERTIFICATE, "self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), DisconnectCause.UPGRADE_REFUSED, "ws://"),
        (
            ConnectionAbortedError("SSL handshake"),
            DisconnectCause.LOST,
            "TLS handshake took longer than 10 s",
        ),
        (ConnectionAbortedError(103, "aborted"), DisconnectCause.LOST, "no connection: aborted"),
        (ConnectionRefusedError(), DisconnectCause.LOST, "connection refused"),
        (
            socket.gaierror(-2, "Name or service not known"),
            DisconnectCause.LOST,
            "no such host: c.example (Name or service not known); check its spelling",
        ),
        (OSError(), DisconnectCause.LOST, "OSError"),
        (ProxyError("no"), DisconnectCause.UPGRADE_REFUSED, "HTTP proxy"),
        (InvalidHandshake("odd"), DisconnectCause.UPGRADE_REFUSED, "WebSocket server"),
        (EOFError(), DisconnectCause.LOST, "closed the connection without a response"),
    ],
)
def test_every_error_has_a_cause_and_a_detail(
    error: Exception, cause: DisconnectCause, text: str
) -> None:
    disconnect = explain(error, "wss://c.example/x")
    assert disconnect.cause is cause
    assert text in disconnect.detail


def test_missing_host_of_a_proxy_is_not_reported_as_that_of_the_coordinator() -> None:
    error = socket.gaierror(-2, "Name or service not known")
    disconnect = explain(error, "wss://c.example/x", proxy="p.example:3128")
    assert disconnect.detail == (
        "the proxy p.example:3128 cannot be reached (Name or service not known); "
        "check [coordinator] proxy or HTTPS_PROXY"
    )


def test_proxy_that_resets_the_connection_was_reached() -> None:
    error = ConnectionResetError(104, "Connection reset by peer")
    disconnect = explain(error, "wss://c.example/x", proxy="p.example:3128")
    assert disconnect.detail.startswith("the connection through the proxy p.example:3128 was lost")


@pytest.mark.parametrize(("scheme", "asks"), [("ws", True), ("wss", False)])
def test_closed_connection_without_tls_may_need_tls(scheme: str, asks: bool) -> None:
    detail = explain(EOFError(), f"{scheme}://c.example/x").detail
    assert ("should the url begin with wss://?" in detail) is asks


def test_proxy_that_closes_the_connection_is_not_reported_as_the_coordinator() -> None:
    error = ProxyError("no valid response")
    error.__cause__ = EOFError()
    assert "HTTP proxy" in explain(error, "wss://c.example/x", proxy="p.example:3128").detail
