"""Bits flip between agent and coordinator.

`ws://` has no checksum beyond TCP's, so a corrupted letter of a response cannot be detected; TLS
detects it. What must be detected is a malformed frame, a field out of range, or a wrong offset. And
no corruption may cause a hang.
"""

import asyncio
from collections import Counter

from msgspec.structs import replace

from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, scenario_harness
from tests.faults.scenarios.numbered_server import NumberedServer, RequestSpec
from tests.faults.scenarios.scenario import Scale

DEADLINE_S = 600.0
"""The deadline of the jobs. Only the deadline detects that the job id of an end was corrupted."""

SETTLED_WITHIN_S = 5.0
"""If a damaged byte stops an agent, it exits within this time after its last job has ended."""

RESERVED_BITS = 0x70
"""The reserved bits in the first byte of a WebSocket frame; they must be zero (RFC 6455, 5.2)."""


async def frame_head_corrupted_on_its_way_to_the_agent(scale: Scale) -> str:
    """The agent closes the link, and reconnects."""
    async with scenario_harness(scale.rng("frame head"), dialect=scale.dialect) as harness:
        failed = await _corrupt_frame_head(harness, towards_agent=True)
        await harness.wait_for_agents()
        await harness.check_served("later")
        await harness.wait_until_idle()
    return f"link closed, {failed} streams failed once, agent reconnected"


async def frame_head_corrupted_on_its_way_to_the_coordinator(scale: Scale) -> str:
    """The coordinator closes with 1002; an agent that received `Welcome` reconnects after 1002."""
    async with scenario_harness(scale.rng("frame head"), dialect=scale.dialect) as harness:
        failed = await _corrupt_frame_head(harness, towards_agent=False)
        await harness.wait_for_agents()
        await harness.check_served("later")
        await harness.wait_until_idle()
    return f"link closed, {failed} streams failed once, agent reconnected"


async def _corrupt_frame_head(harness: ScenarioHarness, *, towards_agent: bool) -> int:
    """Corrupt the first byte of the next WebSocket frame; return how many streams failed."""
    specs = [RequestSpec(f"job-{n}", 20, 300, pace_s=5.0) for n in range(3)]
    requests = await harness.start_streams(*specs, at_least=700)
    await asyncio.sleep(2)  # between two events: the next byte is the head of a frame
    connection = harness.link_proxy.connections[-1]
    pipe = connection.downstream if towards_agent else connection.upstream
    pipe.corrupt_at(pipe.forwarded, RESERVED_BITS)
    for request in requests:
        (await request.completed()).check_failed_once(harness.server)
    assert connection.closed.is_set(), "the link is still open"
    return len(requests)


async def any_byte_corrupted(scale: Scale) -> str:
    """A random bit flips on the way to or from the agent: no hang, and at most one wrong stream."""
    rng = scale.rng("any byte")
    seen: Counter[str] = Counter()
    async with scenario_harness(
        rng, replace(SETTINGS, deadline_s=DEADLINE_S), dialect=scale.dialect
    ) as harness:
        for n in range(scale.rounds * 4):
            requests = [harness.clients.send(RequestSpec(f"{n}-{k}", 200, 300)) for k in range(3)]
            connection = harness.link_proxy.connections[-1]
            pipe = rng.choice(connection.pipes)
            # The three responses together have about 200 kB, and their acknowledgements half a kB.
            reach = 150_000 if pipe is connection.upstream else 400
            pipe.corrupt_at(pipe.forwarded + rng.randrange(reach), 1 << rng.randrange(8))
            for request in requests:
                await asyncio.wait_for(request.completed(), 2 * DEADLINE_S)
            results = Counter(_result(request, harness.server) for request in requests)
            assert results["wrong"] <= 1, f"one byte caused {results}"
            seen += results
            await asyncio.sleep(SETTLED_WITHIN_S)
            assert not harness.agents[0].task.done(), "one damaged byte stopped the agent"
            await harness.reconnect()  # discards a bit flip that did not happen yet
    return ", ".join(f"{count} {result}" for result, count in sorted(seen.items()))


def _result(request: ScenarioRequest, server: NumberedServer) -> str:
    """Classify a response that may be corrupted."""
    runs = server.runs.get(request.spec.name)
    sent = bytes(runs[0].sent) if runs else b""
    received = bytes(request.data)
    if received == sent and not request.broken:
        return "complete"
    if request.broken or request.errors:
        return "failed"
    differing = sum(one != other for one, other in zip(received, sent, strict=False))
    assert len(received) == len(sent), f"{len(received)} bytes of {len(sent)} without an error"
    assert differing == 1, f"{differing} bytes differ after one was corrupted"
    return "wrong"
