"""What every end reports: usage, prices, backend, times, and where the relayed bytes end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from provider_agent.adapters.base import ResponseOutcome, Transport, Usage
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.protocol.frames import JobError, ModelOffer
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import in_virtual_time

USAGE = Usage(9, 2, 8, 0, 1)
STREAM = "text/event-stream"
EVENT = b"data: 1\n\n"

Stop = Callable[[JobsHarness, ScriptedRun], Awaitable[None]]


def stop_with(reason: StopReason) -> Stop:
    async def stop(harness: JobsHarness, _: ScriptedRun) -> None:
        harness.jobs.stop_all(reason, "enough")

    return stop


async def wait_past_the_deadline(_harness: JobsHarness, _run: ScriptedRun) -> None:
    await asyncio.sleep(60)


async def fail(_harness: JobsHarness, run: ScriptedRun) -> None:
    run.fail(Transport("the connection broke"))


async def raise_defect(_harness: JobsHarness, run: ScriptedRun) -> None:
    run.fail(RuntimeError("a defect"))


async def cancel_after_its_end(harness: JobsHarness, run: ScriptedRun) -> None:
    # In an earlier version, the end waited for the acknowledgement of the whole response, which
    # never came.
    run.send(bytes(2 * MIN_WINDOW_BYTES))
    run.finish(USAGE.input_tokens, USAGE.output_tokens)
    run.reported = ResponseOutcome(USAGE)
    await harness.jobs.wait_until_idle()
    (stream,) = harness.outbox.streams
    harness.jobs.cancel(stream.job_id, "the client disconnected")


async def stall_after_its_end(harness: JobsHarness, run: ScriptedRun) -> None:
    run.finish(USAGE.input_tokens, USAGE.output_tokens)
    run.reported = ResponseOutcome(USAGE)
    await harness.jobs.wait_until_idle()
    (stream,) = harness.outbox.streams
    harness.jobs.end_stalled(stream)


ENDS: dict[str, Stop] = {
    "cancelled": stop_with(StopReason.CANCELLED),
    "cancelled after the end": cancel_after_its_end,
    "draining": stop_with(StopReason.DRAINING),
    "slow_consumer": stop_with(StopReason.SLOW_CONSUMER),
    "slow_consumer after the end": stall_after_its_end,
    "deadline_exceeded": wait_past_the_deadline,
    "backend_unreachable": fail,
    "internal": raise_defect,
}


def harness_with_price(backend: ScriptedBackend) -> JobsHarness:
    harness = JobsHarness(backend)
    harness.jobs.set_prices(
        [ModelOffer("m", [], [], None, True, "scripted", 1, input_price_per_1m=5)]
    )
    return harness


@pytest.mark.parametrize("name", ENDS)
@in_virtual_time
async def test_error_reports_what_the_job_used(name: str) -> None:
    backend = ScriptedBackend("scripted:b")
    harness = harness_with_price(backend)
    job, run = await start_job(harness, backend)
    harness.jobs.set_prices([])
    await asyncio.sleep(1)
    run.start()
    run.send(EVENT)
    harness.pump(acknowledge=False)
    run.reported = ResponseOutcome(USAGE)
    await asyncio.sleep(1)

    await ENDS[name](harness, run)
    error = await harness.error(job)

    duration_ms = 60_000 if name == "deadline_exceeded" else 2_000
    assert name.startswith(error.code)
    assert (error.usage, error.backend_id) == (USAGE, "scripted:b")
    assert (error.duration_ms, error.first_byte_ms) == (duration_ms, 1_000)
    assert (error.input_price_per_1m, error.output_price_per_1m) == (5, None)
    assert (error.total_bytes, error.between_events, error.error_relayed) == (9, True, False)


async def test_refusal_reports_the_price_and_nothing_else() -> None:
    harness = harness_with_price(ScriptedBackend())
    harness.jobs.set_accepting(accepting=False)
    job = new_job()

    submit_job(harness.jobs, job)
    error = harness.refusal(job)

    assert (error.usage, error.backend_id, error.first_byte_ms) == (Usage(), "", None)
    assert (error.input_price_per_1m, error.between_events) == (5, True)


async def cancelled_with_unsent_bytes(
    sent: bytes, unsent: bytes, content_type: str = STREAM
) -> JobError:
    """Return the end of a job that is cancelled while bytes wait to be sent."""
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start(content_type=content_type)
    if sent:
        run.send(sent)
    harness.pump(acknowledge=False)
    run.send(unsent)
    run.reported = ResponseOutcome(USAGE, error_relayed=True)
    harness.jobs.cancel(job.job_id, "")
    return await harness.error(job)


@pytest.mark.parametrize(
    ("sent", "between_events"),
    [(b"", True), (EVENT, True), (b"data: 1\r\n\r\n", True), (b"d", False)],
)
async def test_aborted_end_describes_the_bytes_that_were_sent(
    sent: bytes, between_events: bool
) -> None:
    error = await cancelled_with_unsent_bytes(sent, b"data: 2\n")

    assert (error.total_bytes, error.usage) == (len(sent), USAGE)
    assert (error.error_relayed, error.between_events) == (False, between_events)


async def test_cut_json_response_does_not_end_between_events() -> None:
    error = await cancelled_with_unsent_bytes(b"{\n\n", b"}", content_type="application/json")

    assert not error.between_events


async def test_end_without_a_reported_outcome_has_no_usage_and_is_not_between_events() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(EVENT)
    run.reported = None
    run.fail(Transport("?"))

    error = await harness.error(job)

    assert (error.usage, error.error_relayed, error.between_events) == (Usage(), False, False)
