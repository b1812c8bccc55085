import asyncio
from collections.abc import AsyncIterator

import pytest

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.protocol.frames import (
    Ack,
    CoordinatorFrame,
    Drain,
    Hello,
    JobError,
)
from provider_agent.protocol.limits import MOVED
from tests.kit.link_harness import RunningLink, connect
from tests.kit.scripted_coordinator import (
    ScriptedCoordinator,
)

SECRET = "a private prompt"


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (1000, DisconnectCause.LOST),
        (1001, DisconnectCause.LOST),
        (1002, DisconnectCause.INCOMPATIBLE),
        (1008, DisconnectCause.LOST),
        (1009, DisconnectCause.LOST),
        (1011, DisconnectCause.LOST),
        (1012, DisconnectCause.TOLD_TO_WAIT),
        (1013, DisconnectCause.TOLD_TO_WAIT),
        (4000, DisconnectCause.LOST),
        (4001, DisconnectCause.REPLACED),
        (MOVED, DisconnectCause.LOST),
    ],
)
@pytest.mark.parametrize("when", ["before the welcome", "later"])
async def test_close_codes_map_to_causes(
    coordinator: ScriptedCoordinator, code: int, cause: DisconnectCause, when: str
) -> None:
    if when == "later":
        link, peer = await connect(coordinator)
    else:
        coordinator.answer = lambda _: None
        link = RunningLink(coordinator)
        peer = await coordinator.next_connection()
    await peer.close(code, "the reason")
    detail = f"the coordinator closed the connection: {code} the reason"
    assert await link.disconnect() == Disconnect(cause, detail, moved=code == MOVED)


async def test_after_a_drain_the_link_closes_when_every_end_is_acknowledged(
    coordinator: ScriptedCoordinator,
) -> None:
    link, peer = await connect(coordinator)

    def acknowledge(frame: CoordinatorFrame) -> None:
        if isinstance(frame, Ack):
            link.outbox.acknowledge(frame)

    link.on_frame = acknowledge
    peer.acknowledges = False
    link.outbox.open(bytes(16)).finish(JobError(bytes(16), 0, "cancelled", ""))
    await peer.next(JobError)
    await peer.send(Drain("update", 7_000))
    await peer.settle()
    assert not link.task.done(), "an end is not acknowledged yet"

    await peer.send_pending_frames()

    disconnect = await link.disconnect()
    assert disconnect == Disconnect(
        DisconnectCause.TOLD_TO_WAIT, "the coordinator is draining: update", 7.0
    )
    await peer.closed.wait()
    assert peer.socket.close_code == 1000


async def test_drain_with_a_time_sets_retry_after(coordinator: ScriptedCoordinator) -> None:
    link, peer = await connect(coordinator)
    await peer.send(Drain("update", 30_000))
    await peer.close(1001)
    disconnect = await link.disconnect()
    assert (disconnect.cause, disconnect.retry_after_s) == (DisconnectCause.TOLD_TO_WAIT, 30.0)


async def test_drain_without_a_time_sets_no_retry_after(coordinator: ScriptedCoordinator) -> None:
    link, peer = await connect(coordinator)
    await peer.send(Drain("update"))
    await peer.close(1001)
    assert (await link.disconnect()).cause is DisconnectCause.LOST


async def test_connection_that_ends_without_a_close_frame_is_lost(
    coordinator: ScriptedCoordinator,
) -> None:
    link, peer = await connect(coordinator)
    peer.cut()
    assert await link.disconnect() == Disconnect(DisconnectCause.LOST, "the connection broke")


async def test_cancelling_closes_with_1000(coordinator: ScriptedCoordinator) -> None:
    link, peer = await connect(coordinator)
    link.task.cancel()
    await peer.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await link.task
    assert peer.socket.close_code == 1000


async def test_cancelling_during_the_handshake_closes_the_connection(
    coordinator: ScriptedCoordinator,
) -> None:
    coordinator.answer = lambda _: None
    link = RunningLink(coordinator)
    peer = await coordinator.next_connection()
    await peer.next(Hello)
    link.task.cancel()
    await peer.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await link.task
