"""How a hostile coordinator greets an agent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.frames import Capabilities, Challenge, CoordinatorFrame, Hello
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, MIN_WINDOW_BYTES
from tests.kit.hostile_harness import HostileHarness, names_of_tasks
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import NONCE, AgentAtCoordinator, welcome
from tests.kit.virtual_time import now

YEARS_MS: Final = 2**53
CHALLENGE: Final = Challenge(NONCE, "c")


class Greeting(Struct, frozen=True):
    """How a coordinator treats an agent that dials it.

    Attributes:
        name: the row of the table in docs/protocol.md.
        say: does it, from the open socket on.
        close_code: what the agent closes with; None: it stays, and is welcome.
    """

    name: str
    say: Callable[[AgentAtCoordinator], Awaitable[None]]
    close_code: int | None = 1002


def says(*frames: CoordinatorFrame) -> Callable[[AgentAtCoordinator], Awaitable[None]]:
    """One frame in a message; what follows a `Challenge` waits for its `Hello`."""

    async def say(peer: AgentAtCoordinator) -> None:
        for number, frame in enumerate(frames):
            if number and isinstance(frames[number - 1], Challenge):
                await peer.next(Hello)
            await peer.send(frame)

    return say


def welcomes(**odd: object) -> Callable[[AgentAtCoordinator], Awaitable[None]]:
    return says(CHALLENGE, replace(welcome(), **odd))


def accepts(**odd: object) -> Callable[[AgentAtCoordinator], Awaitable[None]]:
    async def say(peer: AgentAtCoordinator) -> None:
        await says(CHALLENGE)(peer)
        await peer.next(Hello)
        peer.session.accept(replace(welcome(), **odd))
        await peer.flush()
        await peer.next(Capabilities)

    return say


async def says_nothing(peer: AgentAtCoordinator) -> None:
    began = now()
    await peer.closed.wait()
    assert now() - began == pytest.approx(HANDSHAKE_TIMEOUT_S, abs=1.0)


async def never_answers(peer: AgentAtCoordinator) -> None:
    await says(CHALLENGE)(peer)
    await says_nothing(peer)


async def is_slow(peer: AgentAtCoordinator) -> None:
    await asyncio.sleep(HANDSHAKE_TIMEOUT_S * 0.45)
    await says(CHALLENGE)(peer)
    await peer.next(Hello)
    await asyncio.sleep(HANDSHAKE_TIMEOUT_S * 0.45)
    peer.session.accept(welcome())
    await peer.flush()
    await peer.next(Capabilities)


GREETINGS: Final = [
    Greeting("nothing after the upgrade", says_nothing, 1006),
    Greeting("nothing after `Hello`", never_answers, 1006),
    Greeting("each step slowly, within 10 s in total", is_slow, None),
    Greeting("`Welcome` before `Challenge`", says(welcome())),
    Greeting("`Job` before `Welcome`", says(CHALLENGE, new_job())),
    Greeting("`Challenge` twice", says(CHALLENGE, CHALLENGE)),
    Greeting("`Welcome` with a window below 16384", welcomes(window_bytes=MIN_WINDOW_BYTES - 1)),
    Greeting("`Welcome` with a `max_message_bytes` below 1048576", welcomes(max_message_bytes=0)),
    Greeting("`Welcome` with a heartbeat below 100 ms", welcomes(heartbeat_ms=99)),
    Greeting("`Welcome` that resumes a job never offered", welcomes(resumed={bytes(16): 0})),
    Greeting("`Welcome` with a window of 2^53", accepts(window_bytes=2**53), None),
    Greeting("`Welcome` with a heartbeat of 100 ms", accepts(heartbeat_ms=100), None),
    Greeting("`Welcome` with `resume_ms` of years", accepts(resume_ms=YEARS_MS), None),
]


async def serves_a_good_one(harness: HostileHarness) -> None:
    """From the next connection on the coordinator does as it should."""
    harness.coordinator.answer = lambda _hello: welcome()
    harness.coordinator.greets = True
    await harness.serves_another()
    tasks = names_of_tasks()
    await harness.serves_on()
    await harness.is_as_new()
    assert names_of_tasks() == tasks
