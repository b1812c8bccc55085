"""Handshakes that a hostile or slow coordinator performs, and how the agent must react to each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.frames import (
    Capabilities,
    Challenge,
    CoordinatorFrame,
    Hello,
    ResumedJob,
)
from provider_agent.protocol.limits import (
    HANDSHAKE_TIMEOUT_S,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
    MIN_WINDOW_BYTES,
)
from tests.kit.hostile_harness import HostileHarness, task_names
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import NONCE, AgentConnection, welcome
from tests.kit.virtual_time import now

HUGE_DURATION_MS: Final = 2**53 - 1
CHALLENGE: Final = Challenge(NONCE, "c")


class Handshake(Struct, frozen=True):
    """One hostile or slow handshake of a coordinator.

    Attributes:
        name: the first cell of its row in docs/protocol.md.
        perform: performs the handshake on the open socket.
        close_code: the code that the coordinator observes; 1006: the agent sends no close frame;
            None: the agent accepts the handshake. The default is the code of a protocol violation.
    """

    name: str
    perform: Callable[[AgentConnection], Awaitable[None]]
    close_code: int | None = 1002


def send(*frames: CoordinatorFrame) -> Callable[[AgentConnection], Awaitable[None]]:
    """Send each frame as one message; after a `Challenge`, wait for `Hello` before the next."""

    async def perform(peer: AgentConnection) -> None:
        for number, frame in enumerate(frames):
            if number and isinstance(frames[number - 1], Challenge):
                await peer.next(Hello)
            await peer.send(frame)

    return perform


def send_invalid_welcome(**fields: object) -> Callable[[AgentConnection], Awaitable[None]]:
    """Send a `Welcome` whose changed fields violate the protocol."""
    return send(CHALLENGE, replace(welcome(), **fields))


def complete_handshake(**fields: object) -> Callable[[AgentConnection], Awaitable[None]]:
    """Send a valid `Welcome` with changed fields, and wait for the agent's `Capabilities`."""

    async def perform(peer: AgentConnection) -> None:
        await send(CHALLENGE)(peer)
        await peer.next(Hello)
        peer.protocol.accept(replace(welcome(), **fields))
        await peer.send_pending_frames()
        await peer.next(Capabilities)

    return perform


async def stay_silent(peer: AgentConnection) -> None:
    began = now()
    await peer.closed.wait()
    assert now() - began == pytest.approx(HANDSHAKE_TIMEOUT_S, abs=1.0)


async def ignore_hello(peer: AgentConnection) -> None:
    await send(CHALLENGE)(peer)
    await stay_silent(peer)


async def answer_slowly(peer: AgentConnection) -> None:
    await asyncio.sleep(HANDSHAKE_TIMEOUT_S * 0.45)
    await send(CHALLENGE)(peer)
    await peer.next(Hello)
    await asyncio.sleep(HANDSHAKE_TIMEOUT_S * 0.45)
    peer.protocol.accept(welcome())
    await peer.send_pending_frames()
    await peer.next(Capabilities)


HANDSHAKES: Final = [
    Handshake("nothing after the upgrade", stay_silent, 1006),
    Handshake("nothing after `Hello`", ignore_hello, 1006),
    Handshake("each step slowly, within 10 s in total", answer_slowly, None),
    Handshake("`Welcome` before `Challenge`", send(welcome())),
    Handshake("`JobHeader` before `Welcome`", send(CHALLENGE, new_job().header)),
    Handshake("`Challenge` again, before or after `Welcome`", send(CHALLENGE, CHALLENGE)),
    Handshake(
        "`Welcome` with a window below 16384",
        send_invalid_welcome(window_bytes=MIN_WINDOW_BYTES - 1),
    ),
    Handshake(
        "`Welcome` with a `max_message_bytes` below 1048576",
        send_invalid_welcome(max_message_bytes=MIN_MESSAGE_TO_COORDINATOR_BYTES - 1),
    ),
    Handshake("`Welcome` with a heartbeat below 100 ms", send_invalid_welcome(heartbeat_ms=99)),
    Handshake(
        "`Welcome` that resumes a job that `Hello` did not list",
        send_invalid_welcome(resumed=[ResumedJob(bytes(16), 0)]),
    ),
    Handshake(
        "`Welcome` with a window of 2^53 - 1", complete_handshake(window_bytes=2**53 - 1), None
    ),
    Handshake("`Welcome` with a heartbeat of 100 ms", complete_handshake(heartbeat_ms=100), None),
    Handshake(
        "`Welcome` with `resume_ms` of years", complete_handshake(resume_ms=HUGE_DURATION_MS), None
    ),
]


async def assert_recovers(harness: HostileHarness) -> None:
    """Assert that the agent reconnects, serves jobs, and leaves no job or task behind."""
    harness.coordinator.answer = lambda _hello: welcome()
    harness.coordinator.sends_challenge = True
    await harness.assert_serves_after_reconnect()
    tasks = task_names()
    await harness.assert_serves()
    await harness.assert_no_jobs_left()
    assert task_names() == tasks
