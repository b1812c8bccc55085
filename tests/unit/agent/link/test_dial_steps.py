"""Every step of dialing has a timeout, and the error names the step."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext

import pytest

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.agent.link.dial_failure import OPEN_TIMEOUT_S, TLS_TIMEOUT_S, DialFailed
from provider_agent.protocol.limits import SUBPROTOCOL
from tests.kit.certificates import CertificateAuthority, server_context
from tests.kit.connect_proxy import ConnectProxy
from tests.kit.virtual_time import in_virtual_time, now

HOST = "coordinator.test"
UPGRADE = (
    "connected, but no response to the upgrade within 15 s; "
    "check that [coordinator] url is the address of a coordinator"
)
TLS = "the TLS handshake took longer than 10 s; should the url begin with ws://?"
PROXY = "no connection through the proxy {} within 15 s; check [coordinator] proxy or HTTPS_PROXY"


@asynccontextmanager
async def slow_server(answer: bytes = b"", context: SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that sends `answer` at one byte per second.

    On exit, wait until the client has disconnected.
    """
    disconnected = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.create_task(reader.read())
        for byte in answer:
            await asyncio.wait([reading], timeout=1.0)
            writer.write(bytes([byte]))
        await asyncio.wait([reading])
        reading.exception()  # asyncio would log an exception that is not retrieved
        writer.close()
        disconnected.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
        await disconnected.wait()


async def time_to_failure(settings: DialSettings) -> tuple[str, float]:
    """Return the detail of the failure, and how long dialing took."""
    began = now()
    with pytest.raises(DialFailed) as caught:
        await dial(settings, SUBPROTOCOL)
    disconnect = caught.value.disconnect
    assert disconnect == Disconnect(DisconnectCause.LOST, disconnect.detail)
    return disconnect.detail, now() - began


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\n"])
@in_virtual_time
async def test_upgrade_times_out(answer: bytes) -> None:
    async with slow_server(answer) as port:
        reason, after_s = await time_to_failure(DialSettings(url=f"ws://127.0.0.1:{port}/"))
    assert reason == UPGRADE
    assert after_s == pytest.approx(OPEN_TIMEOUT_S)


@pytest.mark.parametrize("answer", [b"", b"\x16\x03\x03\x40\x00" + bytes(100)])
@in_virtual_time
async def test_tls_handshake_times_out(answer: bytes) -> None:
    async with slow_server(answer) as port:
        reason, after_s = await time_to_failure(DialSettings(url=f"wss://127.0.0.1:{port}/"))
    assert reason == TLS
    assert after_s == pytest.approx(TLS_TIMEOUT_S)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\n"])
@in_virtual_time
async def test_upgrade_after_tls_times_out(tmp_path: Path, answer: bytes) -> None:
    authority = CertificateAuthority(tmp_path)
    async with slow_server(answer, server_context(authority.issue("127.0.0.1"))) as port:
        settings = DialSettings(url=f"wss://127.0.0.1:{port}/", ca_file=authority.file)
        reason, after_s = await time_to_failure(settings)
    assert reason == UPGRADE
    assert after_s == pytest.approx(OPEN_TIMEOUT_S)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 Connected\r\n\r\n"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@in_virtual_time
async def test_proxy_times_out(answer: bytes, scheme: str) -> None:
    async with ConnectProxy({}, response=answer) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        settings = DialSettings(url=f"{scheme}://{HOST}/", proxy=address)
        reason, after_s = await time_to_failure(settings)
    assert reason == PROXY.format(f"127.0.0.1:{proxy.port}")
    assert after_s == pytest.approx(OPEN_TIMEOUT_S)


@in_virtual_time
async def test_tls_handshake_through_a_proxy_times_out() -> None:
    async with slow_server() as port, ConnectProxy({f"{HOST}:443": port}) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        reason, after_s = await time_to_failure(DialSettings(url=f"wss://{HOST}/", proxy=address))
    assert reason == TLS
    assert after_s == pytest.approx(TLS_TIMEOUT_S)


def test_name_resolution_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    async def never(*_args: object, **_kwargs: object) -> None:
        await asyncio.Event().wait()

    @in_virtual_time
    async def test() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
        reason, after_s = await time_to_failure(DialSettings(url=f"ws://{HOST}/"))
        assert reason == "no connection within 15 s"
        assert after_s == pytest.approx(OPEN_TIMEOUT_S)

    test()
