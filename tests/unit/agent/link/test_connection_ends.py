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
from tests.kit.link_user import Connected, connect
from tests.kit.scripted_coordinator import (
    ScriptedCoordinator,
)

SECRET = "a private prompt"


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


@pytest.mark.parametrize(
    ("code", "end"),
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
    ],
)
@pytest.mark.parametrize("when", ["before the welcome", "later"])
async def test_close_codes(
    coordinator: ScriptedCoordinator, code: int, end: DisconnectCause, when: str
) -> None:
    if when == "later":
        connected, agent = await connect(coordinator)
    else:
        coordinator.answer = lambda _: None
        connected = Connected(coordinator)
        agent = await coordinator.next_agent()
    await agent.close(code, "the reason")
    detail = f"the coordinator closed the connection: {code} the reason"
    assert await connected.end() == Disconnect(end, detail)


async def test_a_drain_is_left_when_every_end_is_acknowledged(
    coordinator: ScriptedCoordinator,
) -> None:
    connected, agent = await connect(coordinator)

    def acknowledged(frame: CoordinatorFrame) -> None:
        if isinstance(frame, Ack):
            connected.outbox.acknowledge(frame)

    connected.user.on_frame = acknowledged
    agent.acknowledges = False
    connected.outbox.open(bytes(16)).finish(JobError(bytes(16), 0, "cancelled", ""))
    await agent.next(JobError)
    await agent.send(Drain("update", 7_000))
    await agent.settle()
    assert not connected.running.done(), "an end is not acknowledged yet"

    await agent.flush()

    end = await connected.end()
    assert end == Disconnect(
        DisconnectCause.TOLD_TO_WAIT, "the coordinator is going away: update", 7.0
    )
    await agent.closed.wait()
    assert agent.socket.close_code == 1000


async def test_a_drain_says_when_to_come_back(coordinator: ScriptedCoordinator) -> None:
    connected, agent = await connect(coordinator)
    await agent.send(Drain("update", 30_000))
    await agent.close(1001)
    end = await connected.end()
    assert (end.cause, end.retry_after_s) == (DisconnectCause.TOLD_TO_WAIT, 30.0)


async def test_a_drain_without_a_time_says_nothing_of_it(coordinator: ScriptedCoordinator) -> None:
    connected, agent = await connect(coordinator)
    await agent.send(Drain("update"))
    await agent.close(1001)
    assert (await connected.end()).cause is DisconnectCause.LOST


async def test_a_lost_connection(coordinator: ScriptedCoordinator) -> None:
    connected, agent = await connect(coordinator)
    agent.cut()
    assert await connected.end() == Disconnect(DisconnectCause.LOST, "the connection broke")


async def test_cancelling_says_goodbye(coordinator: ScriptedCoordinator) -> None:
    connected, agent = await connect(coordinator)
    connected.running.cancel()
    await agent.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await connected.running
    assert agent.socket.close_code == 1000


async def test_cancelling_in_the_handshake_leaves_nothing_open(
    coordinator: ScriptedCoordinator,
) -> None:
    coordinator.answer = lambda _: None
    connected = Connected(coordinator)
    agent = await coordinator.next_agent()
    await agent.next(Hello)
    connected.running.cancel()
    await agent.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await connected.running
