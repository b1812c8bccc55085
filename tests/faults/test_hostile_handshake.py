"""What an agent does about a coordinator that is hostile before, at and after its `Welcome`."""

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from msgspec import Struct
from msgspec.structs import replace

from agent.backoff import TOLD_MAX_S
from agent.outbox import MAX_OWN_WINDOW_BYTES
from agent.resumption import MAX_RESUME_S
from agent.telemetry.logs import configure_logging
from protocol.frames import (
    Capabilities,
    Challenge,
    CoordinatorFrame,
    Drain,
    Heartbeat,
    Hello,
    Job,
    Rejected,
)
from protocol.limits import HANDSHAKE_TIMEOUT_S, MIN_WINDOW_BYTES
from tests.kit.hostile_stage import Stage, names_of_tasks
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import (
    NONCE,
    AgentAtCoordinator,
    ScriptedCoordinator,
    welcome,
)
from tests.kit.virtual_time import in_virtual_time, now

YEARS_MS = 2**53
NASTY = "\x1b[2J\x1b]0;owned\x07\r\nERROR forged line\x00\u202e" + "x" * 4000
CHALLENGE = Challenge(NONCE, "c")


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


GREETINGS = [
    Greeting("it accepts and never says anything", says_nothing, 1006),
    Greeting("it never answers `Hello`", never_answers, 1006),
    Greeting("it answers each step slowly, within 10 s in all", is_slow, None),
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


@pytest.mark.parametrize("greeting", GREETINGS, ids=lambda greeting: greeting.name)
@in_virtual_time
async def test_a_greeting_is_answered_as_the_table_says(greeting: Greeting) -> None:
    backend = ScriptedBackend()
    async with ScriptedCoordinator(lambda _hello: None) as coordinator:
        coordinator.greets = False
        async with RunningAgent(coordinator, backend) as agent:
            peer = await coordinator.next_agent()
            await greeting.say(peer)
            if greeting.close_code is not None:
                await peer.closed.wait()
                assert peer.socket.close_code == greeting.close_code
            else:
                await peer.settle()
                peer.cut()
            await _serves_a_good_one(Stage(coordinator, agent, backend, peer))


async def _serves_a_good_one(stage: Stage) -> None:
    stage.coordinator.answer = lambda _hello: welcome()
    stage.coordinator.greets = True
    await stage.serves_another()
    tasks = names_of_tasks()
    await stage.serves_on()
    await stage.is_as_new()
    assert names_of_tasks() == tasks


# --- what absurd numbers come to ------------------------------------------------------------------


@in_virtual_time
async def test_a_huge_window_buys_16_mib_and_no_more() -> None:
    backend = ScriptedBackend()
    answer = replace(welcome(), window_bytes=2**53)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        peer.acknowledges = False
        await peer.give(new_job())
        run = await backend.next_run()
        run.start()
        sent = 0
        while not run.paused:
            run.send(bytes(2**20))
            sent += 2**20
        assert sent == MAX_OWN_WINDOW_BYTES


@in_virtual_time
async def test_a_heartbeat_of_100_ms_costs_ten_frames_a_second() -> None:
    answer = replace(welcome(), heartbeat_ms=100)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        peer = await agent.connected()
        await asyncio.sleep(5)
        beats = [frame for frame in peer.frames if isinstance(frame, Heartbeat)]
        assert 40 <= len(beats) <= 60


@in_virtual_time
async def test_a_session_is_kept_for_ten_minutes_whatever_is_promised() -> None:
    backend = ScriptedBackend()
    answer = replace(welcome(), resume_ms=YEARS_MS)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        await peer.give(new_job(deadline_ms=86_400_000))
        run = await backend.next_run()
        coordinator.greets = False
        coordinator.answer = lambda _hello: None
        lost_at = now()
        peer.cut()
        await run.cancelled.wait()
        assert MAX_RESUME_S <= now() - lost_at <= MAX_RESUME_S + HANDSHAKE_TIMEOUT_S + 1
        await asyncio.sleep(1)
        assert agent.service.jobs.in_flight == 0


@pytest.mark.parametrize("way", ["Rejected", "Drain", "Retry-After"])
@in_virtual_time
async def test_a_wait_of_years_is_an_hour_or_two(way: str) -> None:
    async with ScriptedCoordinator() as coordinator:
        if way == "Rejected":
            coordinator.answer = lambda _hello: Rejected("full", "later", YEARS_MS)
        if way == "Retry-After":
            coordinator.refusals.append((503, {"Retry-After": "86000"}))
        # Without a backend, which would be looked at all the time.
        async with RunningAgent(coordinator, jitter=0.99) as agent:
            began = now()
            if way == "Drain":
                await (await agent.connected()).send(Drain("later", YEARS_MS))
            elif way == "Rejected":
                await coordinator.next_agent()
                coordinator.answer = lambda _hello: welcome()
            await agent.connected()
            assert TOLD_MAX_S <= now() - began <= 2 * TOLD_MAX_S + 60


@in_virtual_time
async def test_a_flood_of_drains_is_one_drain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "provider_agent")
    backend = ScriptedBackend()
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        job = new_job()
        await peer.give(job)
        run = await backend.next_run()
        for _ in range(3):
            await peer.send(*[Drain("again", 0)] * 1000)
        await peer.settle()
        run.answer(b"to its end")
        await peer.end(job.job_id)
        await peer.closed.wait()
        assert peer.socket.close_code == 1000
        await Stage(coordinator, agent, backend, peer).serves_another()
    told = [record for record in caplog.records if "going away" in record.message]
    assert len(told) == 1


# --- texts of a coordinator -----------------------------------------------------------------------


@pytest.fixture(params=["text", "json"])
def log_lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Everything that is logged, as it is written."""
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("debug", request.param, written, ())
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("provider_agent").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


async def rejects(peer: AgentAtCoordinator) -> None:
    await says(CHALLENGE, Rejected(NASTY[:500], NASTY, 5000))(peer)


async def closes(peer: AgentAtCoordinator) -> None:
    await peer.close(1001, NASTY[:90])


async def drains(peer: AgentAtCoordinator) -> None:
    await accepts(provider_id=NASTY[:500])(peer)
    await peer.send(Drain(NASTY, 5000))


async def gives_odd_jobs(peer: AgentAtCoordinator) -> None:
    odd = NASTY[:500]
    await accepts()(peer)
    await peer.give(Job(bytes(16), odd, odd, b"{}", 1, odd, odd))
    await peer.error(bytes(16))
    peer.cut()


TEXTS = {
    "`Rejected` with control characters and a huge text": rejects,
    "a close reason with control characters": closes,
    "`Drain` and `Welcome` with control characters": drains,
    "a job with control characters in its names": gives_odd_jobs,
}


@pytest.mark.parametrize("name", TEXTS)
@in_virtual_time
async def test_no_text_of_a_coordinator_reaches_a_terminal_as_it_is(
    name: str, log_lines: io.StringIO
) -> None:
    backend = ScriptedBackend()
    async with ScriptedCoordinator(lambda _hello: None) as coordinator:
        coordinator.greets = False
        async with RunningAgent(coordinator, backend, jitter=0.9) as agent:
            peer = await coordinator.next_agent()
            await TEXTS[name](peer)
            await peer.closed.wait()
            while not (told := agent.service.status().last_rejection):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert told.isprintable()
            assert len(told) < 1200
            await _serves_a_good_one(Stage(coordinator, agent, backend, peer))
    lines = log_lines.getvalue().splitlines()
    assert any("forged" in line for line in lines), "it is told"
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("ERROR") for line in lines)
    assert max(map(len, lines)) < 3 * 4096


OTHER_ROWS = {
    "`Rejected`, `Drain` or `Retry-After` with a wait of years": (
        test_a_wait_of_years_is_an_hour_or_two
    ),
    "a flood of `Drain`": test_a_flood_of_drains_is_one_drain,
    **dict.fromkeys(TEXTS, test_no_text_of_a_coordinator_reaches_a_terminal_as_it_is),
}
"""Rows of the table that have a test of their own."""
