"""Links to a coordinator that is slow, does not read, or does not answer."""

import asyncio

import pytest

from provider_agent.agent.link.backoff import (
    CAP_S,
    Disconnect,
    DisconnectCause,
    Retry,
    next_attempt,
)
from provider_agent.agent.link.dial import CLOSE_TIMEOUT_S
from provider_agent.agent.link.watchdogs import PING_EVERY_S
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    Challenge,
    ModelOffer,
    RequestChunk,
)
from provider_agent.protocol.limits import CONNECT_PATH, HANDSHAKE_TIMEOUT_S, KIB, MAX_MODELS, MIB
from provider_agent.websocket.write_progress import WRITE_STALL_S
from tests.kit.fault_proxy import FaultProxy
from tests.kit.link_harness import LinkHarness, RunningLink, connect
from tests.kit.scripted_coordinator import NONCE, AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

MANY_MODELS = Capabilities(
    1, [ModelOffer("m" * 512, ["openai"], ["chat"], 1, False, "x", 1)] * MAX_MODELS, AgentLimits(8)
)
"""One message of 2 MiB: far more than the kernel buffers of one connection hold."""

MOST_PONGS_IN_KERNEL_BYTES = 256 * MIB
"""An upper bound: far more than the kernel buffers of one connection hold."""

MOMENT_S = 0.001
"""Enough for the link to fill the kernel's buffers: the virtual clock stands still meanwhile."""


async def stalled(coordinator: ScriptedCoordinator) -> tuple[RunningLink, AgentConnection]:
    """Return a link with unsent data, and its peer, which does not read."""
    link, peer = await connect(coordinator)
    peer.stop_reading()
    link.outbox.put(MANY_MODELS)
    await asyncio.sleep(MOMENT_S)
    return link, peer


@in_virtual_time
async def test_peer_that_does_not_read_ends_the_link() -> None:
    async with ScriptedCoordinator() as coordinator:
        began = now()
        link, _ = await stalled(coordinator)
        disconnect = await link.disconnect()
        assert disconnect == Disconnect(DisconnectCause.LOST, "sending made no progress for 30 s")
        # The timeout restarts when the kernel accepts a few more bytes.
        assert WRITE_STALL_S <= now() - began < 3 * WRITE_STALL_S


@in_virtual_time
async def test_peer_that_reads_slowly_keeps_the_link() -> None:
    # In an earlier version, a slow message ended the link although it made progress.
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        peer.stop_reading()
        link.outbox.put(MANY_MODELS)
        began = now()
        while not peer.frames[1:]:
            assert not link.task.done()
            await asyncio.sleep(7)
            peer.socket.transport.resume_reading()
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the peer reads once in these two turns of the loop
            peer.stop_reading()
        assert now() - began > WRITE_STALL_S
        peer.socket.transport.resume_reading()
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_vanished_peer_is_detected_within_two_ping_intervals_on_an_idle_link() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        peer.stop_reading()
        began = now()
        disconnect = await link.disconnect()
        assert disconnect == Disconnect(DisconnectCause.LOST, "no answer to a ping within 20 s")
        assert now() - began == pytest.approx(2 * PING_EVERY_S)


@in_virtual_time
async def test_peer_that_answers_pings_keeps_the_link() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        await asyncio.sleep(10 * PING_EVERY_S)
        assert not link.task.done(), link.task.result()
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_closing_to_a_peer_that_does_not_read_times_out() -> None:
    # In an earlier version, the close frame waited without a timeout for space in the write buffer.
    async with ScriptedCoordinator() as coordinator:
        link, _ = await stalled(coordinator)
        began = now()
        link.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await link.task
        assert now() - began == pytest.approx(CLOSE_TIMEOUT_S)


@in_virtual_time
async def test_violation_by_a_peer_that_does_not_read_ends_the_link() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await stalled(coordinator)
        began = now()
        await peer.send(welcome())
        disconnect = await link.disconnect()
        assert disconnect.cause is DisconnectCause.BROKEN_PEER
        assert now() - began == pytest.approx(CLOSE_TIMEOUT_S)


async def test_flood_of_pings_aborts_the_link_before_pongs_fill_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provider_agent.agent.link.link_connection.MAX_UNSENT_BYTES", 16 * KIB)
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        peer.stop_reading()
        transport = peer.socket.transport
        flooded = 0
        while not link.task.done():
            assert flooded < MOST_PONGS_IN_KERNEL_BYTES, "the agent keeps every pong"
            if transport.get_write_buffer_size() < MIB:
                transport.write((b"\x89\x7d" + bytes(125)) * 100)
                flooded += 127 * 100
            await asyncio.sleep(0)
        assert await link.disconnect() == Disconnect(DisconnectCause.LOST, "the connection broke")


@in_virtual_time
async def test_handshake_times_out_when_the_challenge_arrives_byte_by_byte() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.sends_challenge = False
        link = RunningLink(coordinator)
        peer = await coordinator.next_connection()
        message = VERSION_1.encode([Challenge(NONCE, "slow")])
        began = now()
        for byte in bytes([0x82, len(message)]) + message:
            if link.task.done():
                break
            peer.socket.transport.write(bytes([byte]))
            await asyncio.sleep(1)
        disconnect = await link.disconnect()
        assert disconnect == Disconnect(
            DisconnectCause.LOST, "no `Welcome` within 10 s after the connection opened"
        )
        assert now() - began == pytest.approx(HANDSHAKE_TIMEOUT_S, abs=1)


@in_virtual_time
async def test_backoff_grows_while_the_coordinator_drops_every_link_after_welcome() -> None:
    async with ScriptedCoordinator() as coordinator:
        waited_s, waits = 0.0, []
        for _ in range(16):
            link = LinkHarness(coordinator.url)
            running = asyncio.create_task(link.link.run())
            peer = await coordinator.next_connection()
            await link.welcomed.wait()
            peer.cut()
            decision = next_attempt(await running, waited_s, 0.0, lambda: 0.5)
            assert isinstance(decision, Retry)
            waited_s = decision.waited_s
            waits.append(decision.after_s)
        assert waits == sorted(waits)
        assert (waits[0], waits[-1]) == (0.5, CAP_S / 2)


@in_virtual_time
async def test_message_that_arrives_slowly_keeps_the_link_without_a_pong() -> None:
    # A pong waits behind the message. In an earlier version, only a pong counted as a sign of life.
    async with ScriptedCoordinator() as coordinator, FaultProxy(coordinator.port) as proxy:
        harness = LinkHarness(
            f"ws://{proxy.authority}{CONNECT_PATH}", authority=f"127.0.0.1:{coordinator.port}"
        )
        running = asyncio.create_task(harness.link.run())
        peer = await coordinator.next_connection()
        await harness.welcomed.wait()
        (connection,) = proxy.connections
        for pipe in connection.pipes:
            pipe.bytes_per_s = 10_000
        began = now()
        await peer.send(RequestChunk(b"j" * 16, 0, bytes(900 * KIB)))
        await peer.settle()
        assert now() - began > 3 * PING_EVERY_S
        assert not running.done()
        await peer.close(1000)
        await running
