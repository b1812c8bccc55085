"""The table of docs/protocol.md, "Resumption": one rule for each state of a job on both sides."""

import pytest

from provider_agent.protocol.frames import LiveJob, ResumedJob
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.resumption import plan_resumption

JOB_ID = b"\x0b" * 16
WINDOW = 1000

RUNNING = LiveJob(JOB_ID, 2, 9, 20)
NOT_STARTED = LiveJob(JOB_ID, 0, 0, 7)
ENDED = LiveJob(JOB_ID, 2, 9, 20, ended=True)


def make_stream(received: int) -> ReceiveStream:
    stream = ReceiveStream(WINDOW)
    stream.received, stream.started = received, received > 0
    return stream


def plan_resumed_jobs(
    live: list[LiveJob], received: int | None, *, cancelled: bool = False, end: int | None = None
) -> list[ResumedJob]:
    streams = {} if received is None else {JOB_ID: make_stream(received)}
    ended = {} if end is None else {JOB_ID: end}
    return plan_resumption(live, streams, [JOB_ID] if cancelled else [], ended).resumed


# Each id names what the coordinator has, then the state of the job at the agent.
@pytest.mark.parametrize(
    ("live", "received", "expected"),
    [
        pytest.param([NOT_STARTED], 0, [ResumedJob(JOB_ID, 0)], id="nothing, running"),
        pytest.param([RUNNING], 0, [], id="nothing, and the agent no longer holds the start"),
        pytest.param([RUNNING], 5, [ResumedJob(JOB_ID, 5)], id="a part, running"),
        pytest.param([ENDED], 5, [ResumedJob(JOB_ID, 5)], id="a part, ended"),
        pytest.param([ENDED], 9, [ResumedJob(JOB_ID, 9)], id="all bytes but the end, ended"),
        pytest.param([RUNNING], 1, [], id="a part, and the agent no longer holds the next byte"),
        pytest.param([RUNNING], 10, [], id="more than the agent sent"),
        pytest.param([], 5, [], id="a part, unknown to the agent"),
        pytest.param([RUNNING], None, [], id="unknown to the coordinator"),
    ],
)
def test_a_job_continues_where_the_coordinator_needs_the_next_byte(
    live: list[LiveJob], received: int | None, expected: list[ResumedJob]
) -> None:
    assert plan_resumed_jobs(live, received) == expected


def test_an_ended_job_is_not_repeated() -> None:
    assert plan_resumed_jobs([ENDED], None, end=9) == [ResumedJob(JOB_ID, 9, ended=True)]
    assert plan_resumed_jobs([RUNNING], None, end=9) == [], "the agent reports the job as running"
    assert plan_resumed_jobs([ENDED], None, end=10) == [], "the agent reports another length"


@pytest.mark.parametrize("live", [RUNNING, ENDED], ids=["running", "ended"])
def test_the_rest_of_a_cancelled_response_is_skipped(live: LiveJob) -> None:
    streams = {JOB_ID: make_stream(5)}

    plan = plan_resumption([live], streams, [JOB_ID], {})

    assert plan.resumed == [ResumedJob(JOB_ID, 9)]
    assert plan.cancelled == {JOB_ID}
    # Without an acknowledgement of the skipped bytes, a full window could hold the end back.
    assert streams[JOB_ID].resume(WINDOW) == 9


def test_the_request_continues_where_the_agent_needs_the_next_byte() -> None:
    plan = plan_resumption([NOT_STARTED], {JOB_ID: make_stream(0)}, [], {})

    assert plan.request_offsets == {JOB_ID: 7}
