"""What peers without a key can do to the coordinator, over real sockets."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.agents.link import CLOSE_S
from provider_agent.coordinator.connections import limits
from provider_agent.coordinator.connections.failed_attempts import FREE_FAILURES, INTERVAL_S
from provider_agent.coordinator.connections.guarded_connection import UNAUTHENTICATED_S
from provider_agent.coordinator.connections.limits import GRACE_S
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import CONNECT_PATH, MIB, SUBPROTOCOL
from tests.kit.coordinator_harness import JSON_HEADERS, wait_until, warning_events
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time, now

SETTINGS = CoordinatorSettings(
    port=0,
    drain_s=0,
    queue_s=0,
    api_keys=SecretSet(["secret"]),
    max_unauthenticated_per_address=20,
    heartbeat_ms=3_600_000,
)
CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'
KEY = {"Authorization": "Bearer secret"}
WRONG = {"Authorization": "Bearer wrong"}


@contextlib.asynccontextmanager
async def idle_sockets(
    coordinator: Coordinator, count: int, sent: bytes = b""
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open connections that send these bytes at once, and nothing after them."""
    host, _, port = coordinator.authority.rpartition(":")
    sockets = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for _, writer in sockets:
        writer.write(sent)
    try:
        yield [reader for reader, _ in sockets]
    finally:
        for _, writer in sockets:
            writer.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until a connection is closed by its other side."""
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""


@pytest.mark.parametrize("wait_s", [0.0, GRACE_S], ids=["at once", "after a second"])
@in_virtual_time
async def test_many_idle_connections_do_not_exclude_clients_and_agents(wait_s: float) -> None:
    # 1,100 idle connections used up the open files, so that nobody else could connect.
    async with (
        Coordinator(replace(SETTINGS, max_connections=90), clock=now) as coordinator,
        idle_sockets(coordinator, 100) as sockets,
    ):
        await asyncio.sleep(wait_s)
        async with (
            ScriptedAgent(coordinator.connect_url) as agent,
            aiohttp.ClientSession(coordinator.http_url, headers={**JSON_HEADERS, **KEY}) as http,
        ):
            asking = asyncio.create_task(http.post(CHAT, data=BODY))
            await (await agent.next_job()).answer(b"{}")
            assert (await asking).status == 200
            # Of the 100, 10 are closed at once, because 90 may be open in total. Within the grace
            # period, the agent and the client replace one each. After it, an address may have only
            # 20 without authentication: the agent's is the 91st, so 71 are closed. Then it no
            # longer counts, so that the client's is the 20th.
            closed = 81 if wait_s else 12
            for reader in sockets[:closed]:
                await ended(reader)
            assert coordinator.open_connections == 100 - closed + 2


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
@in_virtual_time
async def test_connection_without_a_request_is_closed_after_seconds(sent: bytes) -> None:
    async with (
        Coordinator(SETTINGS, clock=now) as coordinator,
        idle_sockets(coordinator, 1, sent) as (reader,),
    ):
        began = now()
        await ended(reader)
        assert now() - began == pytest.approx(UNAUTHENTICATED_S, abs=1)


UPGRADE = (
    f"GET {CONNECT_PATH} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()

FIELDS = b"".join(b"x%d: " % number + bytes(b"y" * 8000) + b"\r\n" for number in range(100))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n", FIELDS),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n" + FIELDS),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"0\r\n" + FIELDS,
        ),
        (UPGRADE, b"\x82\xff" + (MIB - 100).to_bytes(8, "big") + bytes(MIB - 200)),
    ],
    ids=["headers", "trailers", "trailers after an unknown Expect", "WebSocket message"],
)
async def test_incomplete_data_without_a_key_is_not_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    # 1,024 connections with 4 MiB each of an incomplete message exhausted the memory. Now a
    # connection that holds more than `FREE_BYTES` is closed if all together hold more than
    # `SHARED_BYTES`: here only if that is 0.
    async with Coordinator(SETTINGS) as coordinator, asyncio.timeout(5):
        host, _, port = coordinator.authority.rpartition(":")
        for shared_bytes in (limits.SHARED_BYTES, 0):
            monkeypatch.setattr(limits, "SHARED_BYTES", shared_bytes)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(first)
            await asyncio.sleep(0.1)
            writer.write(then)
            await asyncio.sleep(0.2)
            assert coordinator.open_connections == (1 if shared_bytes else 0)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await reader.read()


async def test_many_handshakes_do_not_exclude_an_agent() -> None:
    # Beyond `max_agents` + 64 connections of agents, in a handshake or after it, each further agent
    # received 503.
    settings = replace(SETTINGS, max_agents=1, max_unauthenticated_per_address=100)
    async with Coordinator(settings) as coordinator, idle_sockets(coordinator, 70, UPGRADE) as idle:
        for reader in idle:
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
        async with ScriptedAgent(coordinator.connect_url) as agent:
            assert agent.rejected is None


@in_virtual_time
async def test_upgrade_during_a_stop_does_not_delay_it() -> None:
    # The stop waited for the handshake of each agent that connected meanwhile.
    coordinator = Coordinator(SETTINGS, clock=now)
    await coordinator.start()
    host, _, port = coordinator.authority.rpartition(":")
    late, writer = await asyncio.open_connection(host, int(port))
    async with idle_sockets(coordinator, 1, UPGRADE) as (silent,):
        assert (await silent.readline()).startswith(b"HTTP/1.1 101 ")
        began = now()
        stopping = asyncio.create_task(coordinator.stop())
        await asyncio.sleep(1)
        writer.write(UPGRADE)
        assert (await late.readline()).startswith(b"HTTP/1.1 503 ")
        await stopping
        assert now() - began == pytest.approx(CLOSE_S, abs=0.5)
        writer.close()


async def test_malformed_request_is_answered_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # By default, aiohttp logs a traceback for each, so that anyone could fill the log.
    async with (
        Coordinator(SETTINGS) as coordinator,
        idle_sockets(coordinator, 1, b"nonsense\r\n\r\n") as (reader,),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.0 400 ")
        await reader.read()
    assert warning_events(caplog.records) == []


async def test_peer_that_leaves_before_100_continue_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # aiohttp logged a traceback for each, so that anyone could fill the log.
    request = b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"
    async with Coordinator(SETTINGS) as coordinator:
        host, _, port = coordinator.authority.rpartition(":")
        for turns in range(30):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            for _ in range(turns % 6):  # the loss arrives in one of the first turns of the loop
                await asyncio.sleep(0)
            writer.transport.abort()
            await wait_until(lambda: not coordinator.open_connections)
    assert warning_events(caplog.records) == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/", ""), ("/livez", ""), ("/nothing", ""), ("/v1/models", ""), ("/", "Expect: a\r\n")],
)
async def test_connection_without_authentication_ends_with_its_response(
    path: str, headers: str
) -> None:
    # If it were kept alive, a proxy could send another client's request over it just when the
    # timeout of connections without authentication closes it.
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode()
    async with (
        Coordinator(SETTINGS) as coordinator,
        idle_sockets(coordinator, 1, request) as (reader,),
    ):
        assert b"\r\nConnection: close\r\n" in await reader.read()


@in_virtual_time
async def test_kept_alive_connection_is_closed_after_its_timeout() -> None:
    # aiohttp's default is an hour.
    request = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: secret\r\n\r\n"
    async with (
        Coordinator(SETTINGS, clock=now) as coordinator,
        idle_sockets(coordinator, 1, request) as (reader,),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        began = now()
        await reader.read()
        assert now() - began == pytest.approx(SETTINGS.keep_alive_s, abs=1)


@in_virtual_time
async def test_agent_and_slow_client_with_a_key_outlive_the_timeout() -> None:
    async with (
        Coordinator(SETTINGS, clock=now) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        aiohttp.ClientSession(coordinator.http_url, headers={**JSON_HEADERS, **KEY}) as http,
    ):

        async def slow_body() -> AsyncIterator[bytes]:
            for byte in BODY:
                await asyncio.sleep(2)
                yield bytes([byte])

        asking = asyncio.create_task(http.post(CHAT, data=slow_body()))
        await (await agent.next_job()).answer(b"{}")
        assert (await asking).status == 200
        assert not agent.closed.is_set()


@pytest.mark.parametrize("headers", [{}, WRONG, KEY], ids=["no key", "wrong key", "valid key"])
async def test_compressed_body_is_refused_without_decompression(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    # A gzip body of 16 MiB took 2.2 s of CPU, also without a key.
    def decompress(*_: object) -> None:
        raise AssertionError("decompressed a body")

    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer.feed_data", decompress)
    body = gzip.compress(b'{"model":"tiny","x":"' + bytes(1024 * 1024) + b'"}')
    headers = {**JSON_HEADERS, **headers, "Content-Encoding": "gzip"}
    async with (
        Coordinator(SETTINGS) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=headers) as http,
    ):
        for path, status in ((CHAT, 415 if "secret" in str(headers) else 401), ("/nothing", 404)):
            async with http.post(path, data=body) as response:
                assert response.status == status
                assert (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json", "Origin": "http://page.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain; x=application/json"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 503),
    ],
    ids=str,
)
async def test_web_page_cannot_be_a_client(headers: dict[str, str], status: int) -> None:
    # A page can send requests to addresses in its visitor's network, where no key may be needed.
    async with (
        Coordinator(replace(SETTINGS, api_keys=None)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, skip_auto_headers=["Content-Type"]) as http,
    ):
        async with http.post(CHAT, data=BODY, headers=headers) as response:
            assert response.status == status
        async with http.get("/v1/models", headers=headers) as response:
            assert response.status == (403 if status == 403 else 200)


@in_virtual_time
async def test_wrong_keys_are_checked_only_every_few_seconds() -> None:
    async with (
        Coordinator(SETTINGS, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
    ):

        async def status(headers: dict[str, str]) -> int:
            async with http.get("/v1/models", headers=headers) as response:
                assert response.status != 429 or int(response.headers["Retry-After"]) > 0
                return response.status

        for _ in range(FREE_FAILURES):
            assert await status(WRONG) == 401
        assert await status(WRONG) == 429
        assert await status(KEY) == 429, "a correct guess is not recognized either"
        assert await status({}) == 401, "a request without a key is not a guess"
        await asyncio.sleep(INTERVAL_S)
        assert await status(KEY) == 200
        for _ in range(3):
            await status(WRONG)
        assert await status(WRONG) == 429
        assert await status(KEY) == 200, "the client has used this key before"


async def test_clients_behind_a_trusted_proxy_are_told_apart() -> None:
    # Client 1.1.1.1 guesses too often. Client 2.2.2.2 sends "1.1.1.1" in `X-Forwarded-For`, and the
    # proxy appends the real address. Without trusted proxies, all clients have the proxy's address.
    async def status(http: aiohttp.ClientSession, forwarded_for: str) -> int:
        headers = {**WRONG, "X-Forwarded-For": forwarded_for}
        async with http.get("/v1/models", headers=headers) as response:
            return response.status

    cases: list[tuple[list[str], int]] = [([], 429), (["10.0.0.1", "127.0.0.0/8"], 401)]
    for proxies, status_of_other_client in cases:
        async with (
            Coordinator(replace(SETTINGS, trusted_proxies=tuple(proxies))) as coordinator,
            aiohttp.ClientSession(coordinator.http_url) as http,
        ):
            for number in range(FREE_FAILURES):
                await status(http, f"9.9.9.{number}, 1.1.1.1")
            assert await status(http, "9.9.9.9, 1.1.1.1") == 429
            assert await status(http, "1.1.1.1, 2.2.2.2") == status_of_other_client


@pytest.mark.parametrize(
    ("guesser", "neighbor"),
    [
        ("1.1.1.1:{}", "1.1.1.1"),
        ("[2001:db8::{}]:{}", "2001:db8::"),
        ("2001:db8::{}", "2001:db8::ff"),
    ],
)
async def test_one_client_cannot_guess_from_many_addresses(guesser: str, neighbor: str) -> None:
    # Some proxies append the client's port, and every host has 2**64 IPv6 addresses.
    async with (
        Coordinator(replace(SETTINGS, trusted_proxies=("127.0.0.1",))) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
    ):

        async def status(address: str, key: dict[str, str]) -> int:
            headers = {**key, "X-Forwarded-For": address}
            async with http.get("/v1/models", headers=headers) as response:
                return response.status

        assert await status(neighbor, KEY) == 200
        statuses = [await status(guesser.format(n, n), WRONG) for n in range(FREE_FAILURES + 1)]
        assert statuses == [401] * FREE_FAILURES + [429]
        assert await status(guesser.format(99, 99), KEY) == 200, "used in this network before"


async def test_wrong_enrollment_codes_are_checked_only_every_few_seconds() -> None:
    settings = replace(SETTINGS, enrollment_codes=SecretSet(["code"]))
    async with Coordinator(settings) as coordinator:
        known = ScriptedAgent(coordinator.connect_url, enrollment_code="code")
        async with known:
            assert known.rejected is None
        codes = []
        for _ in range(FREE_FAILURES + 1):
            async with ScriptedAgent(coordinator.connect_url, enrollment_code="wrong") as agent:
                assert agent.rejected is not None
                codes.append((agent.rejected.code, bool(agent.rejected.retry_after_ms)))
        assert codes == [("not_enrolled", False)] * FREE_FAILURES + [("too_many_failures", True)]
        async with ScriptedAgent(coordinator.connect_url, enrollment_code="code") as agent:
            assert agent.rejected is not None, "a correct guess is not recognized either"
        async with ScriptedAgent(
            coordinator.connect_url, key=known.key, enrollment_code="code"
        ) as agent:
            assert agent.rejected is None, "this agent has been admitted before"
