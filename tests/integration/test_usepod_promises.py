"""What the agent promises beyond the messages of the Use Pod dialect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from provider_agent.adapters.base import BackendHealth, BackendTimeout, Operation
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import BackendConfig
from provider_agent.agent.service import EXIT_OK
from provider_agent.protocol.limits import MIB
from provider_agent.protocol.usepod.dialect import MAX_JOB_MESSAGE_BYTES
from tests.kit.fakes.server import Fault, stream_response
from tests.kit.fakes.vllm import MODEL, FakeVllm
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.usepod_coordinator import UsepodConnection, UsepodCoordinator
from tests.kit.usepod_harness import new_id, send_until_paused, usepod_config, usepod_harness
from tests.kit.virtual_time import in_virtual_time, now


@asynccontextmanager
async def running_with_vllm() -> AsyncIterator[tuple[UsepodConnection, FakeVllm]]:
    async with UsepodCoordinator() as coordinator, FakeVllm() as server:
        backend = make_backends((BackendConfig(kind="vllm", url=server.url),), {}).usable[0]
        async with RunningAgent(None, backend, config=usepod_config(coordinator.url)):
            connection = await coordinator.next_connection()
            await connection.next("capabilities")
            yield connection, server


# --- the agent's load -----------------------------------------------------------------------------


@in_virtual_time
async def test_heartbeats_have_true_figures_every_15_seconds() -> None:
    async with usepod_harness() as harness:
        connection = harness.connection
        await connection.next("heartbeat")
        began = now()
        good, bad, waiting = new_id(), new_id(), new_id()
        run = await harness.start_job(good)
        await asyncio.sleep(2)
        run.start()
        run.send(b"data: {}\n\n")
        await asyncio.sleep(1)
        run.finish(output_tokens=31)
        await connection.end(good)
        run = await harness.start_job(bad)
        await asyncio.sleep(3)
        run.fail(BackendTimeout("silent"))
        await connection.end(bad)
        await harness.start_job(waiting)
        beats = [await connection.next("heartbeat")]
        assert now() - began == pytest.approx(15.0, abs=0.01)
        beats.append(await connection.next("heartbeat"))
        assert now() - began == pytest.approx(30.0, abs=0.01)

    assert beats[0] == {
        "type": "heartbeat",
        "queue_depth": 1,
        "tokens_per_sec_p50": pytest.approx(30, rel=0.01),  # not counting the first token
        "p50_latency_ms": 2000,
        "p95_latency_ms": 2000,
        "error_rate_60s": 0.5,
        "last_error_at": "2026-05-28T20:26:46Z",
        "last_error_code": "backend_timeout",
    }
    assert beats[1]["last_error_at"] == beats[0]["last_error_at"]


@in_virtual_time
async def test_the_status_shows_the_last_error() -> None:
    async with usepod_harness() as harness:
        assert harness.agent.service.status().last_error_code is None
        job_id = new_id()
        (await harness.start_job(job_id)).fail(BackendTimeout("silent"))
        await harness.connection.end(job_id)
        await asyncio.sleep(7)
        status = harness.agent.service.status()

    assert status.last_error_code == "backend_timeout"
    assert status.last_error_age_s == pytest.approx(7.0, abs=0.01)


@in_virtual_time
async def test_a_backend_that_appears_later_is_offered() -> None:
    backend = ScriptedBackend("scripted:http://b", model("m"))
    backend.reported_health = BackendHealth(False, None, "not started yet")
    async with (
        UsepodCoordinator() as coordinator,
        RunningAgent(None, backend, config=usepod_config(coordinator.url)),
    ):
        connection = await coordinator.next_connection()
        assert (await connection.next("capabilities"))["models"] == []
        backend.reported_health = BackendHealth(True, 1.0)
        (offer,) = (await connection.next("capabilities"))["models"]

    assert offer["model_id"] == "m"


# --- jobs -----------------------------------------------------------------------------------------


async def test_an_error_in_the_stream_fails_the_job_after_its_bytes() -> None:
    pieces = [
        b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n',
        b'data: {"error": {"message": "engine failure", "code": 500}}\n\n',
        b"data: [DONE]\n\n",
    ]
    async with running_with_vllm() as (connection, server):
        server.script_jobs(stream_response(pieces))
        job_id = new_id()
        await connection.send_job(job_id, MODEL)
        end = await connection.end(job_id)

    assert (end["type"], end["error_code"]) == ("job_error", "internal")
    assert end["tokens_emitted"] == len(connection.data(job_id)) > 0


async def test_an_anthropic_job_is_refused_without_a_server_for_it() -> None:
    chat_only = model("m", operations=frozenset({Operation.CHAT}))
    async with usepod_harness(ScriptedBackend("scripted:http://b", chat_only)) as harness:
        job_id = new_id()
        await harness.connection.send_job(job_id, "m", format="anthropic")
        end = await harness.connection.end(job_id)

    assert (end["type"], end["error_code"]) == ("job_error", "model_not_loaded")
    assert "anthropic" in end["message"]
    assert harness.backend.runs == []


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, True),
        ({"stream_options": {}}, True),
        ({"stream_options": {"include_usage": None}}, True),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": False}}, False),
    ],
)
async def test_usage_is_requested_unless_the_job_forbids_it(
    options: dict[str, object], asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "provider_agent")
    request = {"messages": [{"role": "user", "content": "hello"}], **options}
    async with running_with_vllm() as (connection, server):
        job_id = new_id()
        await connection.send_job(job_id, MODEL, request=request)
        end = await connection.end(job_id)

    assert server.jobs[0].asks_for_usage is asked
    assert (end["tokens"]["output"] > 0) is asked
    (record,) = [one for one in caplog.records if one.message == "job ended"]
    logged = record.fields  # type: ignore[attr-defined]
    assert (logged["output_tokens"] is not None) is asked, "an unknown count is null in our log"


@pytest.mark.parametrize(
    ("request_fields", "path"),
    [
        ({"prompt": "hello", "max_tokens": 5}, "/v1/completions"),
        ({"messages": [{"role": "user", "content": "x"}], "input": "x"}, "/v1/chat/completions"),
    ],
)
async def test_a_request_reaches_the_route_that_it_was_written_for(
    request_fields: dict[str, object], path: str
) -> None:
    async with running_with_vllm() as (connection, server):
        job_id = new_id()
        await connection.send_job(job_id, MODEL, request=request_fields)
        end = await connection.end(job_id)

    assert end["type"] == "job_done"
    assert server.jobs[0].path == path
    assert connection.data(job_id) == server.jobs[0].sent


async def test_embeddings_of_a_model_without_them_reach_no_server() -> None:
    async with running_with_vllm() as (connection, server):
        job_id = new_id()
        await connection.send_job(job_id, MODEL, request={"input": "hello"})
        end = await connection.end(job_id)

    assert (end["type"], end["error_code"]) == ("job_error", "model_not_loaded")
    assert "embeddings" in end["message"]
    assert server.jobs == []


async def test_a_job_right_after_a_cancel_takes_the_place_of_the_cancelled_one() -> None:
    """The coordinator receives no end of a cancelled job, so that it counts the place as free."""
    async with running_with_vllm() as (connection, server):
        server.script_jobs(Fault.HANG_AFTER_FIRST_CHUNK, Fault.HANG_AFTER_FIRST_CHUNK)
        running = [new_id(), new_id()]
        for job_id in running:
            await connection.send_job(job_id, MODEL)
            await connection.wait_for_bytes(job_id, 1)
        next_job = new_id()
        for job_id in running:
            await connection.send(type="job_cancel", job_id=job_id)
        await connection.send_job(next_job, MODEL)

        assert (await connection.end(next_job))["type"] == "job_done"


@in_virtual_time
async def test_a_job_without_a_deadline_ends_after_a_minute() -> None:
    async with usepod_harness() as harness:
        job_id, began = new_id(), now()
        await harness.start_job(job_id)
        end = await harness.connection.end(job_id)

        assert (end["type"], end["error_code"]) == ("job_error", "backend_timeout")
        assert now() - began == pytest.approx(60.0, abs=0.01)


# --- the link -------------------------------------------------------------------------------------


async def test_a_control_message_overtakes_chunks_on_a_slow_link() -> None:
    async with usepod_harness() as harness:
        connection, job_id = harness.connection, new_id()
        run = await harness.start_job(job_id)
        run.start()
        connection.socket.transport.pause_reading()
        sent = await send_until_paused(run)
        harness.agent.service.advertiser.send()
        connection.socket.transport.resume_reading()
        await connection.next("capabilities")
        before = len(connection.data(job_id))
        await connection.wait_for_bytes(job_id, sent)
        run.finish()
        await connection.end(job_id)

    assert before < sent, "the message waited for all chunks that were written before it"


@in_virtual_time
async def test_no_other_session_receives_anything_of_a_job() -> None:
    async with usepod_harness() as harness:
        lost, backend = harness.connection, harness.backend
        running, cancelled = new_id(), new_id()
        run = await harness.start_job(running)
        run.start()
        run.send(b"data: {}\n\n")
        await lost.wait_for_bytes(running, 1)
        backend.hold_cancel = asyncio.Event()
        lost.cut()
        connection = harness.connection = await harness.coordinator.next_connection()
        await connection.next("capabilities")
        backend.hold_cancel.set()
        backend.hold_cancel = None
        await run.cancelled.wait()
        other = await harness.start_job(cancelled)
        other.answer(b"data: {}\n\n")
        await connection.end(cancelled)
        await connection.next("heartbeat")

        assert connection.of_job(running) == []
        assert harness.agent.service.jobs.in_flight == 0


@in_virtual_time
async def test_a_job_over_the_limit_ends_the_link_and_the_agent_serves_again() -> None:
    async with usepod_harness() as harness:
        connection = harness.connection
        await connection.send_raw(" " * (MAX_JOB_MESSAGE_BYTES + 1))
        await connection.closed.wait()
        assert connection.socket.close_code == 1009
        harness.connection = await harness.coordinator.next_connection()
        job_id = new_id()
        (await harness.start_job(job_id)).answer(b"data: {}\n\n")

        assert (await harness.connection.end(job_id))["type"] == "job_done"


@in_virtual_time
async def test_a_request_of_16_mib_is_within_the_limit() -> None:
    async with usepod_harness() as harness:
        text, job_id = "x" * (16 * MIB - 100), new_id()
        request = {"messages": [{"role": "user", "content": text}], "stream": True}
        run = await harness.start_job(job_id, request=request)
        assert len(run.job.request) <= 16 * MIB
        run.answer(b"data: {}\n\n")

        assert (await harness.connection.end(job_id))["type"] == "job_done"


@in_virtual_time
async def test_the_waits_grow_while_the_coordinator_welcomes_no_one() -> None:
    backend = ScriptedBackend("scripted:http://b", model("m"))
    async with UsepodCoordinator() as coordinator:
        coordinator.cuts_before_auth = 12
        config = usepod_config(coordinator.url)
        async with RunningAgent(None, backend, config=config, jitter=0.999):
            connection = await coordinator.next_connection()
            await connection.next("capabilities")

    waits = [later - earlier for earlier, later in pairwise(coordinator.dialed_at)]
    assert waits[0] <= 1.0
    assert waits == sorted(waits)
    assert 55.0 <= waits[-1] <= 61.0


# --- a stop ---------------------------------------------------------------------------------------


async def test_a_stopping_agent_withdraws_its_offers_and_finishes_its_jobs() -> None:
    async with usepod_harness() as harness:
        connection, running, refused = harness.connection, new_id(), new_id()
        run = await harness.start_job(running)
        run.start()
        harness.agent.service.stop()
        withdrawn = await connection.next("capabilities")
        await connection.send_job(refused, "m")
        assert (await connection.end(refused))["error_code"] == "out_of_capacity"
        harness.agent.service.advertiser.send()
        repeated = await connection.next("capabilities")
        run.send(b"data: {}\n\n")
        run.finish()

        assert (await connection.end(running))["type"] == "job_done"
        assert connection.data(running) == b"data: {}\n\n"
        assert await harness.agent.task == EXIT_OK
    assert [one["type"] for one in connection.messages].count("job_done") == 1
    assert withdrawn["models"] == repeated["models"] == []
    assert withdrawn["limits"]["max_concurrent_total"] == 2
