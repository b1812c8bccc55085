"""A coordinator that is slow, takes nothing, or says nothing."""

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
from provider_agent.agent.link.watchdogs import PING_EVERY_S, WRITE_STALL_S
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import AgentLimits, Capabilities, Challenge, ModelOffer
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, KIB, MAX_MODELS, MIB
from tests.kit.link_user import Connected, DialledLink, connect
from tests.kit.scripted_coordinator import NONCE, AgentAtCoordinator, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

MANY_MODELS = Capabilities(
    1, [ModelOffer("m" * 512, ["openai"], ["chat"], 1, False, "x", 1)] * MAX_MODELS, AgentLimits(8)
)
"""One message of 2 MiB: far more than a connection of this machine takes unread."""

MOST_PONGS_IN_KERNEL_BYTES = 256 * MIB
"""Far more than the kernel buffers of one connection hold."""

MOMENT_S = 0.001
"""The virtual clock advances only when the kernel has moved all it can."""


async def stalled(coordinator: ScriptedCoordinator) -> tuple[Connected, AgentAtCoordinator]:
    """A link on which no byte moves any more, though many wait."""
    connected, agent = await connect(coordinator)
    agent.stop_reading()
    connected.outbox.put(MANY_MODELS)
    await asyncio.sleep(MOMENT_S)
    return connected, agent


@in_virtual_time
async def test_a_peer_that_takes_nothing_is_given_up_on() -> None:
    async with ScriptedCoordinator() as coordinator:
        began = now()
        connected, _ = await stalled(coordinator)
        end = await connected.end()
        assert end == Disconnect(DisconnectCause.LOST, "sending made no progress for 30 s")
        # A kernel that still finds room for some bytes after that begins it anew.
        assert WRITE_STALL_S <= now() - began < 3 * WRITE_STALL_S


@in_virtual_time
async def test_a_peer_that_takes_little_by_little_is_kept() -> None:
    # One message that was long under way once ended the link, though it moved.
    async with ScriptedCoordinator() as coordinator:
        connected, agent = await connect(coordinator)
        agent.stop_reading()
        connected.outbox.put(MANY_MODELS)
        began = now()
        while not agent.frames[1:]:
            assert not connected.running.done()
            await asyncio.sleep(7)
            agent.socket.transport.resume_reading()
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # one turn of the loop reads once
            agent.stop_reading()
        assert now() - began > WRITE_STALL_S
        agent.socket.transport.resume_reading()
        await agent.close(1000)
        await connected.end()


@in_virtual_time
async def test_a_peer_that_vanished_is_noticed_within_two_pings_with_nothing_to_send() -> None:
    async with ScriptedCoordinator() as coordinator:
        connected, agent = await connect(coordinator)
        agent.stop_reading()
        began = now()
        end = await connected.end()
        assert end == Disconnect(DisconnectCause.LOST, "no answer to a ping within 20 s")
        assert now() - began == pytest.approx(2 * PING_EVERY_S)


@in_virtual_time
async def test_a_peer_that_answers_pings_is_kept() -> None:
    async with ScriptedCoordinator() as coordinator:
        connected, agent = await connect(coordinator)
        await asyncio.sleep(10 * PING_EVERY_S)
        assert not connected.running.done(), connected.running.result()
        await agent.close(1000)
        await connected.end()


@in_virtual_time
async def test_leaving_a_peer_that_takes_nothing_has_an_end() -> None:
    # The goodbye once waited for room behind what the peer did not take.
    async with ScriptedCoordinator() as coordinator:
        connected, _ = await stalled(coordinator)
        began = now()
        connected.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connected.running
        assert now() - began == pytest.approx(CLOSE_TIMEOUT_S)


@in_virtual_time
async def test_a_violation_of_a_peer_that_takes_nothing_ends_the_link() -> None:
    async with ScriptedCoordinator() as coordinator:
        connected, agent = await stalled(coordinator)
        began = now()
        await agent.send(welcome())
        end = await connected.end()
        assert end.cause is DisconnectCause.BROKEN_PEER
        assert now() - began == pytest.approx(CLOSE_TIMEOUT_S)


async def test_pings_without_an_end_do_not_fill_memory_with_pongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provider_agent.agent.link.dial.MAX_UNSENT_BYTES", 16 * KIB)
    async with ScriptedCoordinator() as coordinator:
        connected, agent = await connect(coordinator)
        agent.stop_reading()
        transport = agent.socket.transport
        flooded = 0
        while not connected.running.done():
            assert flooded < MOST_PONGS_IN_KERNEL_BYTES, "the agent keeps every pong"
            if transport.get_write_buffer_size() < MIB:
                transport.write((b"\x89\x7d" + bytes(125)) * 100)
                flooded += 127 * 100
            await asyncio.sleep(0)
        assert await connected.end() == Disconnect(DisconnectCause.LOST, "the connection broke")


@in_virtual_time
async def test_a_coordinator_that_greets_a_byte_at_a_time_is_given_up_on() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.greets = False
        connected = Connected(coordinator)
        agent = await coordinator.next_agent()
        message = VERSION_1.encode([Challenge(NONCE, "slow")])
        began = now()
        for byte in bytes([0x82, len(message)]) + message:
            if connected.running.done():
                break
            agent.socket.transport.write(bytes([byte]))
            await asyncio.sleep(1)
        end = await connected.end()
        assert end == Disconnect(
            DisconnectCause.LOST, "no welcome within 10 s of the open connection"
        )
        assert now() - began == pytest.approx(HANDSHAKE_TIMEOUT_S, abs=1)


@in_virtual_time
async def test_a_coordinator_that_accepts_and_drops_is_asked_ever_more_rarely() -> None:
    async with ScriptedCoordinator() as coordinator:
        waited_s, waits = 0.0, []
        for _ in range(16):
            dialled = DialledLink(coordinator.url)
            running = asyncio.create_task(dialled.link.run())
            agent = await coordinator.next_agent()
            await dialled.user.connected.wait()
            agent.cut()
            decision = next_attempt(await running, waited_s, 0.0, lambda: 0.5)
            assert isinstance(decision, Retry)
            waited_s = decision.waited_s
            waits.append(decision.after_s)
        assert waits == sorted(waits)
        assert (waits[0], waits[-1]) == (0.5, CAP_S / 2)
