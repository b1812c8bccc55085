"""The agent with a coordinator of the Use Pod dialect, over real WebSockets and HTTP."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest

from provider_agent.adapters.base import Backend
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import BackendConfig, PricingConfig
from provider_agent.protocol.limits import MIB
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.fakes.server import FakeResponse, Fault, stream_response
from tests.kit.fakes.vllm import MODEL, FakeVllm
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.usepod_coordinator import UsepodConnection, UsepodCoordinator
from tests.kit.usepod_harness import new_id, send_until_paused, usepod_config, usepod_harness
from tests.kit.virtual_time import in_virtual_time, now


@pytest.fixture
async def coordinator() -> AsyncIterator[UsepodCoordinator]:
    async with UsepodCoordinator() as coordinator:
        yield coordinator


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        yield server


def vllm(server: FakeVllm) -> Backend:
    return make_backends((BackendConfig(kind="vllm", url=server.url),), {}).usable[0]


@pytest.fixture
async def agent(coordinator: UsepodCoordinator, server: FakeVllm) -> AsyncIterator[RunningAgent]:
    async with RunningAgent(None, vllm(server), config=usepod_config(coordinator.url)) as agent:
        yield agent


@pytest.fixture
async def connection(coordinator: UsepodCoordinator, agent: RunningAgent) -> UsepodConnection:
    """The first connection, after its capabilities."""
    connection = await coordinator.next_connection()
    await connection.next("capabilities")
    return connection


# --- handshake and offers -------------------------------------------------------------------------


async def test_the_handshake_and_the_offers(
    coordinator: UsepodCoordinator, agent: RunningAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "provider_agent")
    connection = await coordinator.next_connection()
    capabilities = await connection.next("capabilities")
    await connection.next("heartbeat")

    assert "sec-websocket-protocol" not in coordinator.upgrades[0]
    assert "authorization" not in coordinator.upgrades[0]
    first, second, *_ = connection.messages
    assert (first["type"], second["type"]) == ("auth_response", "capabilities")
    assert first["enrollment_code"] == "POD-1"
    offer = next(one for one in capabilities["models"] if one["model_id"] == MODEL)
    assert (offer["input_per_1m"], offer["output_per_1m"]) == (500_000, 750_000)
    assert (offer["backend"], offer["context_window"]) == ("vllm", 32768)
    assert capabilities["limits"] == {
        "max_concurrent_total": 2,
        "max_tokens_per_minute": 200_000,
    }
    assert agent.service.uplink.connected.is_set()
    assert agent.service.status().dialect == "usepod"
    (line,) = (one for one in caplog.records if one.message == "connected")
    assert line.fields["session"] is None  # type: ignore[attr-defined]


async def test_a_model_without_a_price_is_withheld_and_logged_once(
    coordinator: UsepodCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ScriptedBackend("scripted:http://b", model("free"))
    config = usepod_config(coordinator.url, PricingConfig())
    async with RunningAgent(None, backend, config=config) as agent:
        connection = await coordinator.next_connection()
        assert (await connection.next("capabilities"))["models"] == []
        agent.service.advertiser.send()
        assert (await connection.next("capabilities"))["models"] == []

    # Two log lines said it: one of the link, and one of the offers.
    warnings = [one for one in caplog.records if one.levelname == "WARNING"]
    (line,) = (one for one in warnings if "free" in str(getattr(one, "fields", {})))
    assert line.message == "offer warning"


async def test_a_refused_agent_waits_and_says_why(
    coordinator: UsepodCoordinator, server: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.refusal = "unknown key"
    async with RunningAgent(None, vllm(server), config=usepod_config(coordinator.url)) as agent:
        connection = await coordinator.next_connection()
        await connection.closed.wait()
        assert agent.service.uplink.last_disconnect is not None
        assert "unknown key" in agent.service.uplink.last_disconnect

    (record,) = [one for one in caplog.records if one.message == "not connected"]
    assert record.levelname == "ERROR"
    assert len(coordinator.upgrades) == 1


# --- jobs -----------------------------------------------------------------------------------------


async def test_a_response_arrives_byte_for_byte(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    job_id = new_id()
    request = {"messages": [{"role": "user", "content": "Größe"}], "stream": False}
    await connection.send_job(job_id, MODEL, request=request, format="openai", deadline_ms=20_000)
    done = await connection.end(job_id)

    (upstream,) = server.jobs
    assert upstream.path == "/v1/chat/completions"
    assert upstream.is_streamed
    assert upstream.asks_for_usage
    assert upstream.json["messages"] == request["messages"]
    assert connection.data(job_id) == upstream.sent
    assert done["type"] == "job_done"
    assert done["tokens"] == {
        "input": INPUT_TOKENS,
        "output": OUTPUT_TOKENS,
        "input_tokens": INPUT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
    }


@pytest.mark.parametrize("job_id", ["4EE1308C-F210-44B2-9BF2-628BB77A9E7A", "job 1", "ö" * 300])
async def test_a_job_id_of_any_form_is_returned_unchanged(
    connection: UsepodConnection, job_id: str
) -> None:
    await connection.send_job(job_id, MODEL)

    assert (await connection.end(job_id))["type"] == "job_done"


async def test_a_job_that_is_delivered_twice_runs_once(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    first, second = new_id(), new_id()
    for job_id in (first, first, second):
        await connection.send_job(job_id, MODEL)
    await connection.end(first)
    await connection.end(second)

    assert len(server.jobs) == 2
    assert [one["type"] for one in connection.of_job(first)].count("job_done") == 1


async def test_an_anthropic_job_reaches_the_route_of_its_format(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    job_id = new_id()
    await connection.send_job(
        job_id,
        MODEL,
        format="anthropic",
        request={"max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]},
    )

    assert (await connection.end(job_id))["type"] == "job_done"
    assert server.jobs[0].path == "/v1/messages"
    assert connection.data(job_id) == server.jobs[0].sent


async def test_a_failure_is_reported_with_a_known_code(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    broken = FakeResponse((b'{"error": {"message": "scripted"}}',), 400)
    error_event = b'data: {"error": {"message": "engine failure", "code": 500}}\n\n'
    server.script_jobs(broken, stream_response([error_event]))
    codes = {}
    for name, model_id in (("400", MODEL), ("event", MODEL), ("unknown", "nope")):
        job_id = new_id()
        await connection.send_job(job_id, model_id)
        end = await connection.end(job_id)
        assert end["type"] == "job_error"
        codes[name] = (end["error_code"], end["tokens_emitted"])
        if name == "400":
            assert "scripted" in end["message"]

    assert codes == {
        "400": ("internal", 0),
        "event": ("internal", 0),
        "unknown": ("model_not_loaded", 0),
    }


async def test_more_jobs_than_allowed_are_refused_at_once(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    server.wait_after_first_chunk = asyncio.Event()
    running = [new_id(), new_id()]
    for job_id in running:
        await connection.send_job(job_id, MODEL)
        await connection.wait_for_bytes(job_id, 1)
    refused = new_id()
    await connection.send_job(refused, MODEL)

    assert (await connection.end(refused))["error_code"] == "out_of_capacity"
    server.wait_after_first_chunk.set()
    for job_id in running:
        assert (await connection.end(job_id))["type"] == "job_done"


async def test_nothing_follows_a_cancel(connection: UsepodConnection, server: FakeVllm) -> None:
    server.script_jobs(Fault.HANG_AFTER_FIRST_CHUNK)
    cancelled, next_job = new_id(), new_id()
    await connection.send_job(cancelled, MODEL)
    await connection.wait_for_bytes(cancelled, 1)
    received = len(connection.of_job(cancelled))
    await connection.send(type="job_cancel", job_id=cancelled)
    await server.jobs[0].disconnected.wait()
    await connection.send_job(next_job, MODEL)
    await connection.end(next_job)

    assert len(connection.of_job(cancelled)) == received


async def test_messages_that_the_agent_does_not_know_are_skipped_and_logged_once(
    connection: UsepodConnection, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = ('{"type":', '{"type":"config_update","pricing":{}}', '{"type":"job"}', b"\x00")
    for message in 2 * unknown:
        await connection.send_raw(message)
    job_id = new_id()
    await connection.send_job(job_id, MODEL)

    assert (await connection.end(job_id))["type"] == "job_done"
    logged = [one for one in caplog.records if one.message == "skipping unknown frames"]
    kinds = [getattr(one, "fields", {})["type"] for one in logged]
    assert kinds == ["malformed", "config_update", "malformed job", "binary"]


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (f'"request":{{"messages":{"[" * 50_000}{"]" * 50_000}}}', "nested over 100"),
        ('"prompt":"x"', "not one JSON object"),
    ],
    ids=["nested too deeply", "no request"],
)
async def test_a_malformed_job_that_names_its_id_is_refused(
    connection: UsepodConnection, server: FakeVllm, rest: str, reason: str
) -> None:
    # It was skipped, and the coordinator waited for its end until the deadline.
    job_id = new_id()
    await connection.send_raw(f'{{"type":"job","job_id":"{job_id}","model_id":"{MODEL}",{rest}}}')
    end = await connection.end(job_id)

    assert (end["type"], end["error_code"]) == ("job_error", "internal")
    assert reason in end["message"]
    assert server.jobs == []


async def test_a_large_request_arrives_whole(
    connection: UsepodConnection, server: FakeVllm
) -> None:
    image = "data:image/png;base64," + base64.b64encode(bytes(3 * MIB)).decode()
    content = [{"type": "image_url", "image_url": {"url": image}}]
    job_id = new_id()
    await connection.send_job(
        job_id, MODEL, request={"messages": [{"role": "user", "content": content}]}
    )
    await connection.end(job_id)

    assert server.jobs[0].json["messages"] == [{"role": "user", "content": content}]


# --- the link -------------------------------------------------------------------------------------


async def test_a_lost_link_ends_its_jobs_at_once(
    coordinator: UsepodCoordinator,
    agent: RunningAgent,
    connection: UsepodConnection,
    server: FakeVllm,
) -> None:
    server.script_jobs(Fault.HANG_AFTER_FIRST_CHUNK)
    job_id = new_id()
    await connection.send_job(job_id, MODEL)
    await connection.wait_for_bytes(job_id, 1)
    connection.cut()
    await server.jobs[0].disconnected.wait()
    again = await coordinator.next_connection()
    await again.next("capabilities")

    assert "enrollment_code" not in again.messages[0]
    assert agent.service.outbox.streams == []
    # The coordinator may assign the same job once more.
    await again.send_job(job_id, MODEL)
    assert (await again.end(job_id))["type"] == "job_done"
    assert again.data(job_id) == server.jobs[1].sent


@pytest.mark.parametrize("close_code", [None, 1001, 1012])
@in_virtual_time
async def test_a_dropped_agent_is_back_within_a_second_each_time(close_code: int | None) -> None:
    async with UsepodCoordinator() as coordinator:
        config = usepod_config(coordinator.url)
        async with RunningAgent(None, ScriptedBackend(), config=config, jitter=0.999):
            dropped_at = now()
            for _ in range(5):
                connection = await coordinator.next_connection()
                await connection.next("capabilities")
                dropped_at = now()
                if close_code is None:
                    connection.cut()
                else:
                    await connection.socket.close(close_code)
                await connection.closed.wait()
            await coordinator.next_connection()
            assert now() - dropped_at <= 1.0


@in_virtual_time
async def test_a_refused_agent_comes_back_after_a_minute_and_is_then_admitted() -> None:
    async with UsepodCoordinator() as coordinator:
        coordinator.refusal = "unknown key"
        async with RunningAgent(None, ScriptedBackend(), config=usepod_config(coordinator.url)):
            connection = await coordinator.next_connection()
            await connection.closed.wait()
            refused_at = now()
            coordinator.refusal = None
            again = await coordinator.next_connection()

            assert now() - refused_at >= 60.0
            assert again.messages[0]["enrollment_code"] == "POD-1"
            await again.next("capabilities")


async def test_a_stalled_coordinator_pauses_the_backend() -> None:
    async with usepod_harness() as harness:
        connection, job_id = harness.connection, new_id()
        run = await harness.start_job(job_id)
        run.start()
        connection.socket.transport.pause_reading()
        sent = await send_until_paused(run)
        connection.socket.transport.resume_reading()
        await run.resumed.wait()
        run.finish()

        assert (await connection.end(job_id))["type"] == "job_done"
        assert connection.data(job_id) == bytes(sent)
