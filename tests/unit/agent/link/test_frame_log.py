"""The debug log of frames and backoff decisions, and the content that it never holds."""

import logging
from collections.abc import AsyncIterator

import pytest

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link import frame_log
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    Notice,
    Rejected,
    RoutingStatus,
    Usage,
)
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.link_harness import LinkHarness, RunningLink, connect
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import NONCE, AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time

PROMPT, ANSWER, CODE, TEXT = b"a private prompt", b"a private answer", "code-1234", "free text"

Record = tuple[str, dict[str, object]]


@pytest.fixture
def debug_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "provider_agent")
    return caplog


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


def frames_in(log: pytest.LogCaptureFixture) -> list[Record]:
    records = [one for one in log.records if one.name == frame_log.__name__]
    return [(one.message, vars(one)["fields"]) for one in records]


def rendered(log: pytest.LogCaptureFixture) -> str:
    """Every event with its fields, without the escapes that `repr` adds to a text."""
    fields = [vars(one).get("fields", {}) for one in log.records]
    return "\n".join([*log.messages, *(str(value) for one in fields for value in one.values())])


def types_of(log: pytest.LogCaptureFixture, event: str) -> set[object]:
    return {fields["type"] for logged, fields in frames_in(log) if logged == event}


def type_names(union: object) -> set[str]:
    return {frame.__name__ for frame in union.__args__}  # type: ignore[attr-defined]


async def exchange_all_frames(link: RunningLink, peer: AgentConnection) -> None:
    """Send every frame type that follows the handshake; fill every field that can hold content."""
    job, failed = new_job(request=PROMPT), b"f" * 16
    link.outbox.put(Capabilities(1, [], AgentLimits(8), {"contact": TEXT}))
    link.outbox.put(Heartbeat(1, 0, 8, None, None, None, None))
    link.outbox.put(Draining(1000))
    await peer.next(Draining)
    await peer.send_jobs(job)
    channel = link.outbox.open(job.job_id)
    channel.stream.start(JobStarted(job.job_id, 200, "text/plain", "backend"))
    channel.stream.write(ANSWER)
    channel.finish(JobResult(job.job_id, len(ANSWER), Usage(None, None), "b", 1, 1))
    await peer.next(JobResult)
    link.outbox.open(failed).finish(JobError(failed, 0, "server_error", TEXT, body=ANSWER))
    await peer.next(JobError)
    await peer.send(Notice("code", "info", TEXT), RoutingStatus(1, []))
    await peer.send(Cancel(failed, TEXT), Ack(failed, 0, final=True), Drain(TEXT))
    await peer.settle()


async def test_every_frame_type_is_logged_in_both_directions_without_content(
    coordinator: ScriptedCoordinator, debug_log: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator, enrollment_code=CODE)
    await exchange_all_frames(link, peer)
    await peer.close(1000)
    await link.disconnect()
    coordinator.answer = lambda _: Rejected("not_enrolled", "rejection text")
    await LinkHarness(coordinator.url).link.run()

    assert types_of(debug_log, "frame sent") == type_names(AgentFrame)
    assert types_of(debug_log, "frame received") == type_names(CoordinatorFrame)
    (hello,) = [frame for frame in peer.frames if isinstance(frame, Hello)]
    logged = rendered(debug_log)
    for secret in [PROMPT.decode(), ANSWER.decode(), CODE, TEXT, "rejection text", NONCE.decode()]:
        assert secret not in logged
    for key in [hello.signature, hello.public_key]:
        assert repr(key)[2:-1] not in logged
        assert key.hex() not in logged


async def test_a_frame_is_logged_with_job_offset_and_length(
    coordinator: ScriptedCoordinator, debug_log: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator)
    job = new_job(request=PROMPT)
    await peer.send_jobs(job)
    channel = link.outbox.open(job.job_id)
    channel.stream.start(JobStarted(job.job_id, 200, "text/plain", "backend"))
    channel.stream.write(ANSWER)
    link.outbox.mark_ready(channel)
    await peer.wait_for_bytes(job.job_id, len(ANSWER))
    channel.stream.write(b"more")
    channel.finish(JobResult(job.job_id, len(ANSWER) + 4, Usage(None, None), "b", 1, 1))
    await peer.next(JobResult)
    await peer.send(Ack(job.job_id, 7))
    await peer.settle()
    await peer.close(1000)
    await link.disconnect()
    of_job = {"job": job.job_id.hex()}
    expected: list[Record] = [
        ("frame received", {"type": "JobHeader", **of_job, "length": len(job.request)}),
        (
            "frame received",
            {"type": "RequestChunk", **of_job, "offset": 0, "length": len(job.request)},
        ),
        ("frame sent", {"type": "JobStarted", **of_job}),
        ("frame sent", {"type": "Chunk", **of_job, "offset": 0, "length": len(ANSWER)}),
        ("frame sent", {"type": "Chunk", **of_job, "offset": len(ANSWER), "length": 4}),
        ("frame sent", {"type": "JobResult", **of_job, "offset": len(ANSWER) + 4}),
        ("frame received", {"type": "Ack", **of_job, "offset": 7, "final": False}),
    ]
    logged = frames_in(debug_log)
    assert [record for record in expected if record not in logged] == []


async def test_an_unknown_frame_is_logged_with_its_type_number(
    coordinator: ScriptedCoordinator, debug_log: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator)
    await peer.send_raw(b"\x91\x92\x1d" + b"\xa6secret")
    await peer.settle()
    await peer.close(1000)
    await link.disconnect()
    assert ("frame received", {"type": 29}) in frames_in(debug_log)


async def test_no_frame_is_logged_above_debug(
    coordinator: ScriptedCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provider_agent")
    link, peer = await connect(coordinator)
    await exchange_all_frames(link, peer)
    await peer.close(1000)
    await link.disconnect()
    assert frames_in(caplog) == []


@in_virtual_time
async def test_every_backoff_decision_is_logged_with_cause_wait_and_address(
    debug_log: pytest.LogCaptureFixture,
) -> None:
    async with ScriptedCoordinator() as first, ScriptedCoordinator() as second:
        first.refusals.append((503, {"Retry-After": "40"}))
        second.answer = lambda _: Rejected("not_enrolled", "no")
        settings = CoordinatorConfig(url=first.url, fallback_urls=(second.url,))
        config = agent_config(first.url, coordinator=settings)
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(first, backend, config=config, jitter=0.5) as agent:
            await agent.connected()
    decisions = [
        vars(one)["fields"] for one in debug_log.records if one.message == "backoff decided"
    ]
    waits = [one.pop("wait_s") for one in decisions]
    assert decisions == [
        {"cause": "told_to_wait", "url": first.url, "next": second.url},
        {"cause": "rejected", "url": second.url, "next": first.url},
    ]
    assert waits[0] == 0.5
    # Retry-After with jitter is 60 s, of which 0.5 s have passed.
    assert waits[1] == pytest.approx(59.5)
