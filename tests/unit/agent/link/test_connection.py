import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.protocol.auth import verify_signature
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    Ack,
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    CoordinatorFrame,
    Drain,
    Heartbeat,
    Hello,
    JobError,
    JobStarted,
    Rejected,
    RequestChunk,
)
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, MAX_MESSAGE_TO_AGENT_BYTES
from tests.kit.job_channels import open_started
from tests.kit.jobs import new_job
from tests.kit.link_harness import LinkHarness, RunningLink, connect
from tests.kit.scripted_coordinator import (
    NONCE,
    ScriptedCoordinator,
    welcome,
)
from tests.kit.virtual_time import in_virtual_time, now

SECRET = "a private prompt"


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


# --- handshake ------------------------------------------------------------------------------------


async def test_handshake_signs_the_dialed_authority(
    coordinator: ScriptedCoordinator,
) -> None:
    harness = LinkHarness(coordinator.url, enrollment_code="code-1")
    assert repr(harness.link) == f"<Link {coordinator.url} awaiting_challenge>"
    running = asyncio.create_task(harness.link.run())
    peer = await coordinator.next_connection()
    hello = await peer.next(Hello)
    authority = f"127.0.0.1:{coordinator.port}"
    assert verify_signature(harness.public_key, hello.signature, authority, NONCE)
    assert hello.public_key == harness.public_key
    assert (hello.agent_version, hello.enrollment_code) == ("1.2.3", "code-1")
    assert (hello.instance_id, hello.session_id, hello.live_jobs) == ("instance", None, [])
    await harness.welcomed.wait()
    assert harness.frames == [welcome()]
    await peer.close(1000)
    await running


async def test_signature_for_another_authority_is_rejected(
    coordinator: ScriptedCoordinator,
) -> None:
    disconnect = await LinkHarness(coordinator.url, authority="c.example:443").link.run()
    assert disconnect.cause is DisconnectCause.BAD_SIGNATURE
    assert "bad_signature" in disconnect.detail


@pytest.mark.parametrize(
    ("retry_after_ms", "cause", "retry_after_s"),
    [
        (None, DisconnectCause.REJECTED, None),
        (0, DisconnectCause.TOLD_TO_WAIT, 0.0),
        (90_000, DisconnectCause.TOLD_TO_WAIT, 90.0),
    ],
)
async def test_a_rejection_is_final_unless_it_has_retry_after(
    coordinator: ScriptedCoordinator,
    retry_after_ms: int | None,
    cause: DisconnectCause,
    retry_after_s: float | None,
) -> None:
    coordinator.answer = lambda _: Rejected("not_enrolled", "no such code", retry_after_ms)
    disconnect = await LinkHarness(coordinator.url).link.run()
    text = "rejected by the coordinator: not_enrolled: no such code"
    assert disconnect == Disconnect(cause, text, retry_after_s)


@pytest.mark.parametrize("silent_from", ["the start", "hello"])
@in_virtual_time
async def test_handshake_times_out_without_welcome(silent_from: str) -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.sends_challenge = silent_from != "the start"
        coordinator.answer = lambda _: None
        began = now()
        disconnect = await LinkHarness(coordinator.url).link.run()
        assert disconnect == Disconnect(
            DisconnectCause.LOST, "no `Welcome` within 10 s after the connection opened"
        )
        assert now() - began == pytest.approx(HANDSHAKE_TIMEOUT_S)
        await coordinator.connections[0].closed.wait()


async def test_retry_after_of_http_503_becomes_the_wait(coordinator: ScriptedCoordinator) -> None:
    coordinator.refusals.append((503, {"Retry-After": "7"}))
    disconnect = await LinkHarness(coordinator.url).link.run()
    assert (disconnect.cause, disconnect.retry_after_s) == (DisconnectCause.TOLD_TO_WAIT, 7.0)


@pytest.mark.parametrize(
    "first", [welcome(), new_job().header, Ack(b"x" * 16, 0), Drain("going"), Cancel(b"x" * 16)]
)
async def test_a_first_frame_other_than_challenge_closes_with_1002(
    coordinator: ScriptedCoordinator, first: object
) -> None:
    coordinator.sends_challenge = False
    link = RunningLink(coordinator)
    peer = await coordinator.next_connection()
    await peer.send_raw(msgspec.msgpack.encode([first]))
    disconnect = await link.disconnect()
    await peer.closed.wait()
    assert disconnect.cause is DisconnectCause.BROKEN_PEER
    assert peer.socket.close_code == 1002
    assert link.frames == []


# --- frames ---------------------------------------------------------------------------------------


async def test_frames_reach_the_callback_in_order(coordinator: ScriptedCoordinator) -> None:
    link, peer = await connect(coordinator)
    job = new_job()
    frames: list[CoordinatorFrame] = [
        job.header,
        RequestChunk(job.job_id, 0, job.request),
        Ack(job.job_id, 0),
        Cancel(job.job_id, "why"),
        Drain("restart"),
    ]
    await peer.send(*frames)
    await peer.settle()
    assert link.frames[1:] == frames
    await peer.close(1000)
    await link.disconnect()


async def test_welcome_and_job_in_one_message_both_reach_the_callback(
    coordinator: ScriptedCoordinator,
) -> None:
    coordinator.answer = lambda _: None
    link = RunningLink(coordinator)
    peer = await coordinator.next_connection()
    await peer.next(Hello)
    job = new_job()
    await peer.send(welcome(), job)
    await peer.settle()
    assert link.frames == [welcome(), job.header, RequestChunk(job.job_id, 0, job.request)]
    await peer.close(1000)
    await link.disconnect()


async def test_queued_control_frames_are_sent_in_one_message(
    coordinator: ScriptedCoordinator,
) -> None:
    link, peer = await connect(coordinator)
    heartbeat = Heartbeat(1, 0, 8, None, None, None, None)
    capabilities = Capabilities(1, [], AgentLimits(8))
    link.outbox.put(capabilities)
    link.outbox.put(heartbeat)
    assert await peer.next(Capabilities) == capabilities
    assert await peer.next(Heartbeat) == heartbeat
    assert peer.messages[-1] == [capabilities, heartbeat]
    await peer.close(1000)
    await link.disconnect()


async def test_job_that_is_stopped_before_its_bytes_are_sent_sends_no_empty_message(
    coordinator: ScriptedCoordinator,
) -> None:
    # In an earlier version, an empty message was sent. The coordinator then closed the link with
    # 1002, which ended all its jobs.
    link, peer = await connect(coordinator)
    channel, _ = open_started(link.outbox, b"j" * 16)
    assert isinstance(await peer.next(JobStarted), JobStarted)
    channel.send_chunk(b"x")
    channel.stop()
    await peer.settle()
    assert [] not in peer.messages
    channel.finish(JobError(b"j" * 16, 0, "cancelled", ""))
    assert (await peer.error(b"j" * 16)).total_bytes == 0
    await peer.close(1000)
    await link.disconnect()


async def test_unknown_frames_are_skipped_and_each_type_is_logged_once(
    coordinator: ScriptedCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator)
    for _ in range(3):
        await peer.send_raw(msgspec.msgpack.encode([[29, SECRET], [30, SECRET]]))
    job = new_job()
    await peer.send_raw(msgspec.msgpack.encode([[29, SECRET], job.header, [30]]))
    await peer.settle()
    assert link.frames[1:] == [job.header]
    logged = [one for one in caplog.records if one.message == "skipping unknown frames"]
    assert [vars(one)["fields"] for one in logged] == [{"type": 29}, {"type": 30}]
    assert SECRET not in repr([vars(one) for one in caplog.records])
    await peer.close(1000)
    await link.disconnect()


async def test_only_the_first_64_unknown_frame_types_are_logged(
    coordinator: ScriptedCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator)
    await peer.send_raw(msgspec.msgpack.encode([[number] for number in range(1000, 2000)]))
    await peer.settle()
    assert caplog.messages.count("skipping unknown frames") == 64
    await peer.close(1000)
    await link.disconnect()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(SECRET.encode(), id="not MessagePack"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x90", id="no frames"),
        pytest.param(msgspec.msgpack.encode({"job": SECRET}), id="not an array"),
        pytest.param(msgspec.msgpack.encode([[4, b"short", SECRET]]), id="fields that do not fit"),
        pytest.param(msgspec.msgpack.encode([[SECRET]]), id="a type that is not a number"),
        pytest.param(msgspec.msgpack.encode([new_job(SECRET).header])[:-1], id="cut off"),
        pytest.param(b"\x91" * 100_000, id="too deep"),
        pytest.param(SECRET, id="text"),
        pytest.param(VERSION_1.encode([Challenge(NONCE, SECRET)]), id="a second challenge"),
        pytest.param(VERSION_1.encode([welcome()]), id="a second welcome"),
        pytest.param(VERSION_1.encode([Rejected(SECRET, SECRET)]), id="a late rejection"),
        pytest.param(b"\xc1" + SECRET.encode(), id="a byte that MessagePack never uses"),
    ],
)
async def test_violation_closes_with_1002_without_logging_the_message(
    coordinator: ScriptedCoordinator, caplog: pytest.LogCaptureFixture, message: bytes | str
) -> None:
    caplog.set_level(logging.DEBUG, "provider_agent")
    link, peer = await connect(coordinator)
    await peer.send_raw(message)
    disconnect = await link.disconnect()
    await peer.closed.wait()
    assert peer.socket.close_code == 1002
    assert disconnect.cause is DisconnectCause.BROKEN_PEER
    (logged,) = [
        one for one in caplog.records if one.name == "provider_agent.agent.link.connection"
    ]
    assert logged.message == "coordinator violated the protocol"
    assert vars(logged)["fields"]["close_code"] == 1002
    assert SECRET not in disconnect.detail + repr(vars(logged)) + (peer.socket.close_reason or "")


async def test_violation_raised_by_the_callback_closes_with_1002(
    coordinator: ScriptedCoordinator,
) -> None:
    link, peer = await connect(coordinator)
    link.on_frame = lambda frame: link.outbox.acknowledge(frame)  # type: ignore[arg-type]
    link.outbox.open(b"j" * 16)
    await peer.send(Ack(b"j" * 16, 99))
    assert (await link.disconnect()).cause is DisconnectCause.BROKEN_PEER
    await peer.closed.wait()
    assert peer.socket.close_code == 1002


async def test_message_over_the_limit_closes_with_1009(
    coordinator: ScriptedCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    link, peer = await connect(coordinator)
    sending = asyncio.create_task(peer.send_raw(bytes(MAX_MESSAGE_TO_AGENT_BYTES + 1)))
    disconnect = await link.disconnect()
    await asyncio.gather(sending, return_exceptions=True)
    await peer.closed.wait()
    assert peer.socket.close_code == 1009
    assert disconnect.cause is DisconnectCause.BROKEN_PEER
    (logged,) = [
        one for one in caplog.records if one.name == "provider_agent.agent.link.connection"
    ]
    assert vars(logged)["fields"]["close_code"] == 1009


@pytest.mark.parametrize(
    ("garbage", "code"), [(b"\xff\xff garbage", 1002), (b"\x81\x02\xff\xfe", 1007)]
)
async def test_invalid_websocket_data_closes_the_connection(
    coordinator: ScriptedCoordinator, garbage: bytes, code: int
) -> None:
    link, peer = await connect(coordinator)
    peer.socket.transport.write(garbage)
    disconnect = await link.disconnect()
    await peer.closed.wait()
    assert disconnect.cause is DisconnectCause.BROKEN_PEER
    assert peer.socket.close_code == code
