"""What becomes of a coordinator's texts: they end in logs and on terminals."""

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from provider_agent.agent.telemetry.logs import configure_logging
from provider_agent.protocol.frames import Drain, Job, Rejected
from tests.kit.hostile_greetings import CHALLENGE, accepts, says, serves_a_good_one
from tests.kit.hostile_harness import HostileHarness
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import AgentAtCoordinator, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time

NASTY = "\x1b[2J\x1b]0;owned\x07\r\nERROR forged line\x00\u202e" + "x" * 4000


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
            await serves_a_good_one(HostileHarness(coordinator, agent, backend, peer))
    lines = log_lines.getvalue().splitlines()
    assert any("forged" in line for line in lines), "it is told"
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("ERROR") for line in lines)
    assert max(map(len, lines)) < 3 * 4096
