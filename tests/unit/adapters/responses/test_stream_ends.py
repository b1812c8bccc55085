"""Streams whose final event arrives, but whose connection stays open."""

import asyncio

import pytest

from provider_agent.adapters.base import BackendTimeout, Usage
from provider_agent.adapters.responses.stream_ends import END_S, StreamEnds
from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.raw_jobs import FRAMES, backend_at, job_for, parametrize_operations
from tests.kit.raw_server import ARRIVES_S, AfterReply, RawServer, chunked, stream
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time, now


@parametrize_operations
@in_virtual_time
async def test_job_ends_shortly_after_the_final_event(operation: Operation) -> None:
    reply = stream(FRAMES[operation], end=b"", then=AfterReply.HANG)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        sink = CollectingSink()
        began = now()
        await backend.execute(job_for(operation), sink)

        assert now() - began <= END_S
        assert sink.data == b"".join(FRAMES[operation])
        assert sink.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)
        await server.abandoned.wait()  # the connection was closed


@parametrize_operations
@in_virtual_time
async def test_silence_before_the_final_event_does_not_end_a_job(operation: Operation) -> None:
    frames = FRAMES[operation]
    reply = stream(frames[:-1], end=b"", then=AfterReply.HANG)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        began = now()
        with pytest.raises(BackendTimeout, match="silence"):
            await backend.execute(job_for(operation), CollectingSink())
        assert now() - began >= backend.timeouts.silence_s


@in_virtual_time
async def test_final_event_behind_a_pause_is_still_relayed() -> None:
    first, *rest = FRAMES[Operation.CHAT]
    late = b"".join(map(chunked, rest))
    reply = stream([first], end=b"", late=late, then=AfterReply.HANG)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        sink = CollectingSink(pause_at=1)
        running = asyncio.create_task(backend.execute(job_for(Operation.CHAT), sink))
        await sink.paused.wait()
        await asyncio.sleep(5 * (END_S + ARRIVES_S))
        assert not running.done()

        sink.resume()
        await running

    assert sink.data == first + b"".join(rest)


class CountingRelay:
    """Counts the checks."""

    checks = 0

    def end_if_terminated(self, quiet_since: float) -> None:
        assert quiet_since < now()
        self.checks += 1


@in_virtual_time
async def test_timer_runs_only_while_jobs_run() -> None:
    ends, first, second = StreamEnds(), CountingRelay(), CountingRelay()
    ends.watch(first)
    ends.watch(second)
    await asyncio.sleep(END_S)
    ends.forget(second)
    assert first.checks == second.checks > 0
    await asyncio.sleep(END_S)
    assert first.checks > second.checks
    ends.forget(first)
    checked = first.checks
    await asyncio.sleep(5 * END_S)
    assert first.checks == checked
    assert ends._timer is None
