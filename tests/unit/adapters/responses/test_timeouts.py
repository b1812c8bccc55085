import asyncio
from collections.abc import Callable

import pytest

from provider_agent.adapters.base import BackendError, BackendTimeout, BackendTimeouts, Transport
from provider_agent.adapters.responses.timeouts import UNREAD_S, JobTimeouts
from tests.kit.virtual_time import VirtualTimeLoop, in_virtual_time, now

TIMEOUTS = BackendTimeouts(first_byte_s=30.0, silence_s=10.0, total_s=100.0)
EPSILON_S = 0.001
FOREVER_S = 1e6

Step = float | str | Callable[[], None]
"""Seconds to sleep, the name of a `JobTimeouts` method to call, or a function to call."""

SUSPENDED_S = 40.0


def suspend() -> None:
    """Let `SUSPENDED_S` pass while the process does not run."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.jump(SUSPENDED_S)


async def run(*steps: Step, timeouts: BackendTimeouts = TIMEOUTS) -> None:
    """Run a job of these steps."""
    async with JobTimeouts(timeouts) as job_timeouts:
        for step in steps:
            if step == "close":
                job_timeouts.fail(Transport("this backend was closed"))
            elif step == "read":
                job_timeouts.last_read_at = now()
            elif isinstance(step, str):
                getattr(job_timeouts, step)()
            elif callable(step):
                step()
            else:
                await asyncio.sleep(step)


SLOW_READS = (9.0, "read") * 20

ENDS: dict[str, tuple[tuple[Step, ...], type[BackendError], str, float]] = {
    "no output": (
        (FOREVER_S,),
        BackendTimeout,
        "the server sent no output for 30 s (first byte timeout)",
        30.0,
    ),
    "reads without output": (SLOW_READS, BackendTimeout, "first byte timeout", 30.0),
    "silence after output": (
        (29.0, "output_started", 5.0, "read", FOREVER_S),
        BackendTimeout,
        "the server sent nothing for 10 s (silence timeout)",
        44.0,
    ),
    "silence right after the first output": (
        ("output_started", FOREVER_S),
        BackendTimeout,
        "silence timeout",
        10.0,
    ),
    "output for longer than the total timeout": (
        ("output_started", *SLOW_READS),
        BackendTimeout,
        "the attempt ran for 100 s (total timeout)",
        100.0,
    ),
    "silence after a pause": (
        ("output_started", "pause", 35.0, "resume", FOREVER_S),
        BackendTimeout,
        "silence timeout",
        45.0,
    ),
    "endless pause": (
        ("output_started", "pause", FOREVER_S),
        BackendTimeout,
        "total timeout",
        100.0,
    ),
    # After a suspension, the job has `UNREAD_S` to read what arrived meanwhile: here nothing.
    "silence while suspended": (
        ("output_started", suspend, FOREVER_S),
        BackendTimeout,
        "silence timeout",
        SUSPENDED_S + UNREAD_S,
    ),
    "closed": ((3.0, "close", "close", FOREVER_S), Transport, "closed", 3.0),
    "closed during a pause": (
        ("output_started", "pause", 3.0, "close", FOREVER_S),
        Transport,
        "closed",
        3.0,
    ),
}
"""Name → the steps of a job; then its error, a part of its text, and the duration in seconds."""


@pytest.mark.parametrize("name", ENDS)
@in_virtual_time
async def test_expired_timeout_or_close_ends_the_job_and_is_named(name: str) -> None:
    steps, error, message, after_s = ENDS[name]
    started_at = now()

    with pytest.raises(error) as caught:
        await run(*steps)

    assert message in str(caught.value)
    assert now() - started_at == pytest.approx(after_s)


@pytest.mark.parametrize("first_byte_s", [1.0, 10.0, 1000.0])
@in_virtual_time
async def test_silence_timeout_starts_with_the_output(
    first_byte_s: float,
) -> None:
    started_at = now()
    timeouts = BackendTimeouts(first_byte_s=first_byte_s, silence_s=10.0, total_s=5000.0)

    with pytest.raises(BackendTimeout, match="silence timeout"):
        await run("output_started", FOREVER_S, timeouts=timeouts)

    assert now() - started_at == pytest.approx(10.0)


@in_virtual_time
async def test_total_timeout_can_be_the_shortest() -> None:
    timeouts = BackendTimeouts(first_byte_s=30.0, total_s=20.0)

    with pytest.raises(BackendTimeout, match="total timeout"):
        await run(FOREVER_S, timeouts=timeouts)


@in_virtual_time
async def test_read_just_before_the_deadline_restarts_the_silence_timeout() -> None:
    last_moment_s = TIMEOUTS.silence_s - EPSILON_S

    await run(TIMEOUTS.first_byte_s - EPSILON_S, "output_started", *(last_moment_s, "read") * 6)


@in_virtual_time
async def test_pause_does_not_count_as_silence() -> None:
    await run("output_started", "pause", 75.0, "resume", TIMEOUTS.silence_s - EPSILON_S)


@in_virtual_time
async def test_cancellation_from_outside_propagates() -> None:
    running = asyncio.create_task(run(FOREVER_S))
    await asyncio.sleep(1.0)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def fail() -> None:
    async with JobTimeouts(TIMEOUTS):
        raise KeyError


@in_virtual_time
async def test_error_in_the_body_propagates_and_stops_the_timer() -> None:
    with pytest.raises(KeyError):
        await fail()

    await asyncio.sleep(2 * TIMEOUTS.total_s)


@in_virtual_time
async def test_timeout_of_an_outer_scope_propagates() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(FOREVER_S), 1.0)


@in_virtual_time
async def test_repr_shows_the_phase() -> None:
    async with JobTimeouts(TIMEOUTS) as job_timeouts:
        phases = [repr(job_timeouts)]
        job_timeouts.output_started()
        phases.append(repr(job_timeouts))
        job_timeouts.pause()
        phases.append(repr(job_timeouts))

    assert phases == ["<JobTimeouts first byte>", "<JobTimeouts output>", "<JobTimeouts paused>"]


@pytest.mark.parametrize("reads", [("output_started",), ("output_started", "read")])
@in_virtual_time
async def test_bytes_that_a_suspended_process_has_not_read_yet_restart_the_timeout(
    reads: tuple[Step, ...],
) -> None:
    # After SIGSTOP and SIGCONT, the timer runs before the loop reads what the server has sent.
    *before, read = reads
    await run(*before, suspend, UNREAD_S / 2, read, 9.0)


@in_virtual_time
async def test_pause_is_no_output() -> None:
    async with JobTimeouts(TIMEOUTS) as job_timeouts:
        assert job_timeouts.last_output_at is None
        job_timeouts.output_started()
        output_at = now()
        job_timeouts.pause()
        await asyncio.sleep(5 * TIMEOUTS.silence_s)
        job_timeouts.resume()
        assert job_timeouts.last_output_at == output_at


@in_virtual_time
async def test_paused_job_does_not_wait_for_its_server() -> None:
    async with JobTimeouts(TIMEOUTS) as job_timeouts:
        waits = [job_timeouts.waiting_since]
        started_at = now()
        job_timeouts.output_started()
        job_timeouts.pause()
        waits.append(job_timeouts.waiting_since)
        await asyncio.sleep(5.0)
        job_timeouts.resume()
        waits.append(job_timeouts.waiting_since)
    assert waits == [started_at, None, started_at + 5.0]
