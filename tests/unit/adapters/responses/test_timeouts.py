import asyncio

import pytest

from provider_agent.adapters.base import BackendError, BackendTimeout, BackendTimeouts, Transport
from provider_agent.adapters.responses.timeouts import JobTimeouts
from tests.kit.virtual_time import in_virtual_time, now

TIMEOUTS = BackendTimeouts(first_byte_s=30.0, silence_s=10.0, total_s=100.0)
AN_INSTANT_S = 0.001
FOREVER_S = 1e6

Step = float | str
"""So many seconds pass, or a method of the clocks is called."""


async def run(*steps: Step, timeouts: BackendTimeouts = TIMEOUTS) -> None:
    """A job that does one thing after another."""
    async with JobTimeouts(timeouts) as clocks:
        for step in steps:
            if isinstance(step, str):
                getattr(clocks, step)()
            else:
                await asyncio.sleep(step)


DRIP = (9.0, "read") * 20

ENDS: dict[str, tuple[tuple[Step, ...], type[BackendError], str, float]] = {
    "no output": (
        (FOREVER_S,),
        BackendTimeout,
        "no output from the server for 30 s (first byte clock)",
        30.0,
    ),
    "reads that are no output": (DRIP, BackendTimeout, "first byte clock", 30.0),
    "silence after output": (
        (29.0, "output_began", 5.0, "read", FOREVER_S),
        BackendTimeout,
        "the server went silent for 10 s (silence clock)",
        44.0,
    ),
    "silence at once": (("output_began", FOREVER_S), BackendTimeout, "silence clock", 10.0),
    "a drip without an end": (
        ("output_began", *DRIP),
        BackendTimeout,
        "the job ran for 100 s (total clock)",
        100.0,
    ),
    "silence after a pause": (
        ("output_began", "pause", 35.0, "resume", FOREVER_S),
        BackendTimeout,
        "silence clock",
        45.0,
    ),
    "a pause without an end": (
        ("output_began", "pause", FOREVER_S),
        BackendTimeout,
        "total clock",
        100.0,
    ),
    "closed": ((3.0, "close", "close", FOREVER_S), Transport, "closed", 3.0),
    "closed in a pause": (
        ("output_began", "pause", 3.0, "close", FOREVER_S),
        Transport,
        "closed",
        3.0,
    ),
}


@pytest.mark.parametrize("name", ENDS)
@in_virtual_time
async def test_a_clock_names_itself_and_ends_the_job_in_time(name: str) -> None:
    steps, error, words, after_s = ENDS[name]
    began = now()

    with pytest.raises(error) as caught:
        await run(*steps)

    assert words in str(caught.value)
    assert now() - began == pytest.approx(after_s)


@pytest.mark.parametrize("first_byte_s", [1.0, 10.0, 1000.0])
@in_virtual_time
async def test_silence_counts_from_the_output_whatever_the_first_byte_clock(
    first_byte_s: float,
) -> None:
    began = now()
    timeouts = BackendTimeouts(first_byte_s=first_byte_s, silence_s=10.0, total_s=5000.0)

    with pytest.raises(BackendTimeout, match="silence clock"):
        await run("output_began", FOREVER_S, timeouts=timeouts)

    assert now() - began == pytest.approx(10.0)


@in_virtual_time
async def test_a_total_clock_may_be_the_shortest() -> None:
    timeouts = BackendTimeouts(first_byte_s=30.0, total_s=20.0)

    with pytest.raises(BackendTimeout, match="total clock"):
        await run(FOREVER_S, timeouts=timeouts)


@in_virtual_time
async def test_a_read_just_before_the_end_keeps_a_job_alive() -> None:
    last_moment_s = TIMEOUTS.silence_s - AN_INSTANT_S

    await run(TIMEOUTS.first_byte_s - AN_INSTANT_S, "output_began", *(last_moment_s, "read") * 6)


@in_virtual_time
async def test_a_pause_is_not_silence() -> None:
    await run("output_began", "pause", 75.0, "resume", TIMEOUTS.silence_s - AN_INSTANT_S)


@in_virtual_time
async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    running = asyncio.create_task(run(FOREVER_S))
    await asyncio.sleep(1.0)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def fail() -> None:
    async with JobTimeouts(TIMEOUTS):
        raise KeyError


@in_virtual_time
async def test_an_error_inside_passes_and_nothing_is_left_to_fire() -> None:
    with pytest.raises(KeyError):
        await fail()

    await asyncio.sleep(2 * TIMEOUTS.total_s)


@in_virtual_time
async def test_a_time_out_of_somebody_else_is_not_one_of_ours() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(FOREVER_S), 1.0)


@in_virtual_time
async def test_it_says_where_it_stands() -> None:
    async with JobTimeouts(TIMEOUTS) as clocks:
        said = [repr(clocks)]
        clocks.output_began()
        said.append(repr(clocks))
        clocks.pause()
        said.append(repr(clocks))

    assert said == ["<JobTimeouts first byte>", "<JobTimeouts output>", "<JobTimeouts paused>"]
