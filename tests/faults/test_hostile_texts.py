"""Texts of a hostile coordinator are sanitized in the log and in the agent's status."""

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from provider_agent.agent.telemetry.logs import configure_logging
from provider_agent.protocol.frames import Drain, Rejected
from provider_agent.protocol.job import Job
from tests.kit.hostile_handshakes import CHALLENGE, assert_recovers, complete_handshake, send
from tests.kit.hostile_harness import HostileHarness
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time

HOSTILE_TEXT = "\x1b[2J\x1b]0;owned\x07\r\nERROR forged line\x00\u202e" + "x" * 4000


@pytest.fixture(params=["text", "json"])
def log_lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The formatted log."""
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("debug", request.param, written, ())
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("provider_agent").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


async def reject(peer: AgentConnection) -> None:
    await send(CHALLENGE, Rejected(HOSTILE_TEXT[:500], HOSTILE_TEXT, 5000))(peer)


async def close(peer: AgentConnection) -> None:
    await peer.close(1001, HOSTILE_TEXT[:90])


async def drain(peer: AgentConnection) -> None:
    await complete_handshake(provider_id=HOSTILE_TEXT[:500])(peer)
    await peer.send(Drain(HOSTILE_TEXT, 5000))


async def send_job_with_odd_names(peer: AgentConnection) -> None:
    odd = HOSTILE_TEXT[:500]
    await complete_handshake()(peer)
    await peer.send_jobs(Job(bytes(16), odd, odd, b"{}", 1, odd, odd))
    await peer.error(bytes(16))
    peer.cut()


HOSTILE_TEXTS = {
    "`Rejected` with control characters and a huge text": reject,
    "a close reason with control characters": close,
    "`Drain` and `Welcome` with control characters": drain,
    "a job with control characters in its names": send_job_with_odd_names,
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
@in_virtual_time
async def test_texts_of_a_coordinator_are_sanitized(name: str, log_lines: io.StringIO) -> None:
    backend = ScriptedBackend()
    async with ScriptedCoordinator(lambda _hello: None) as coordinator:
        coordinator.sends_challenge = False
        async with RunningAgent(coordinator, backend, jitter=0.9) as agent:
            peer = await coordinator.next_connection()
            await HOSTILE_TEXTS[name](peer)
            await peer.closed.wait()
            while not (reason := agent.service.status().last_disconnect):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert reason.isprintable()
            assert len(reason) < 1200
            await assert_recovers(HostileHarness(coordinator, agent, backend, peer))
    lines = log_lines.getvalue().splitlines()
    assert any("forged" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("ERROR") for line in lines)
    assert max(map(len, lines)) < 3 * 4096
