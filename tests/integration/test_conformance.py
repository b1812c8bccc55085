"""One suite over every backend, real and fake: what the agent may rely on, whatever the server."""

import asyncio
import re

import aiohttp
import msgspec
import pytest

from adapters.base import (
    BackendModel,
    BadStatus,
    Operation,
    TimeoutSettings,
    Unreachable,
    WireFormat,
)
from protocol.formats import MAIN_OPERATION
from tests.kit.sink import CollectingSink
from tests.kit.subjects import (
    ANTHROPIC,
    EMBEDDINGS,
    FAKES,
    KEY,
    REAL,
    SUBJECTS,
    UNCOUNTED,
    Subject,
    every_backend,
    every_fake,
    every_server,
    over,
    over_formats,
    over_operations,
)
from tests.kit.tap import Tap

# --- what it says of itself -----------------------------------------------------------------------


@every_backend
async def test_is_healthy(subject: Subject) -> None:
    health = await subject.backend.health()

    assert health.last_error is None
    assert health.reachable
    assert health.latency_ms is not None
    assert health.latency_ms >= 0


@every_backend
async def test_offers_its_model_with_window_and_operations(subject: Subject) -> None:
    listed = await subject.backend.list_models()
    models = {model.model_id: model for model in listed if not model.withheld}

    model = models[subject.expected.model_id]
    assert model.upstream_id == subject.expected.upstream_id
    assert model.operations == subject.expected.operations
    assert model.native is subject.backend.native
    if subject.expected.window is not None:
        assert model.context_window == subject.expected.window
    assert [one.model_id for one in listed] == sorted(one.model_id for one in listed)


@every_backend
async def test_models_for_embeddings_are_offered_for_nothing_else(subject: Subject) -> None:
    models = {model.model_id: model for model in await subject.backend.list_models()}

    embedder = models.get(subject.expected.embedder)
    if embedder is not None and subject.expected.embedder != subject.expected.model_id:
        assert embedder.withheld == ""
        assert embedder.operations == {EMBEDDINGS}
    with_embeddings = {one.model_id for one in models.values() if EMBEDDINGS in one.operations}
    assert with_embeddings - {"acme-bare"} == {subject.expected.embedder} - {""}


@every_backend
async def test_tells_the_servers_version(subject: Subject) -> None:
    await subject.backend.list_models()

    if subject.expected.version is None:
        assert subject.backend.version
    else:
        assert subject.backend.version == subject.expected.version


@every_backend
async def test_tells_the_servers_load_where_the_server_does(subject: Subject) -> None:
    await subject.backend.list_models()
    load = await subject.backend.load()

    assert (load is not None) is subject.expected.tells_load
    if load is not None:
        assert load.running is not None
        assert load.running >= 0


@every_backend
async def test_clocks_and_limits_can_be_set(subject: Subject) -> None:
    other = subject.with_settings(timeouts=TimeoutSettings(first_byte_s=7.0), max_concurrent=3)

    await other.list_models()

    defaults = subject.backend.timeouts
    assert other.timeouts == msgspec.structs.replace(defaults, first_byte_s=7.0)
    assert other.max_concurrent == 3


@every_fake
async def test_listing_models_generates_nothing(subject: Subject) -> None:
    assert subject.server is not None
    await subject.backend.health()
    await subject.backend.list_models()

    assert subject.server.jobs == []


@over(REAL)
async def test_listing_models_generates_nothing_on_a_real_server(subject: Subject) -> None:
    async with Tap(subject.backend.settings.url) as tap:
        backend = subject.with_settings(url=tap.url)
        await backend.health()
        await backend.list_models()
        probes = [one for one in tap.exchanges if one.operation is not None]

    assert {one.operation for one in probes} == set(Operation)
    assert all(b'"error"' in one.sent or b'"detail"' in one.sent for one in probes)
    assert not any(b'"usage"' in one.sent for one in probes)


@over(REAL)
async def test_a_real_servers_window_is_what_it_says_it_is(subject: Subject) -> None:
    url = f"{subject.backend.settings.url}/v1/models"
    headers = {"Authorization": f"Bearer {subject.backend.settings.api_key}"}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        (entry,) = (await response.json())["data"]

    (model,) = await subject.backend.list_models()

    told = entry.get("max_model_len") or entry["meta"]["n_ctx"]
    assert model.context_window == told > 0


@every_fake
async def test_a_version_is_probed_once(subject: Subject) -> None:
    assert subject.server is not None
    for _ in range(3):
        await subject.backend.list_models()

    counts = {len(subject.server.probes(operation)) for operation in Operation}
    assert counts <= {0, 1}


@every_fake
async def test_a_route_that_is_not_there_is_not_offered(subject: Subject) -> None:
    assert subject.server is not None
    subject.server.routes = {Operation.CHAT}

    models = await subject.backend.list_models()

    (model,) = [one for one in models if one.model_id == subject.expected.model_id]
    promised = {"openrouter": UNCOUNTED, "openai_compatible": {Operation.CHAT, Operation.MESSAGES}}
    assert model.operations == promised.get(subject.backend.kind, {Operation.CHAT})


@every_fake
async def test_offers_only_what_the_operator_listed(subject: Subject) -> None:
    one = subject.with_settings(models=(subject.expected.model_id,))
    none = subject.with_settings(models=("no-such-*",))

    assert _offered(await one.list_models()) == [subject.expected.model_id]
    rest = await none.list_models()
    assert _offered(rest) == []
    (model,) = [model for model in rest if model.model_id == subject.expected.model_id]
    assert "`models`" in model.withheld


@every_fake
async def test_without_a_list_only_the_operators_own_hardware_is_offered(subject: Subject) -> None:
    unlisted = subject.with_settings(models=None)

    offered = _offered(await unlisted.list_models())

    assert bool(offered) is unlisted.native


@every_fake
async def test_an_alias_is_what_jobs_use_and_the_server_never_sees(subject: Subject) -> None:
    assert subject.server is not None
    named = subject.with_settings(
        aliases={"my-name": subject.expected.upstream_id}, models=("my-*",)
    )
    assert _offered(await named.list_models()) == ["my-name"]

    job = msgspec.structs.replace(subject.job(stream=False), model_id="my-name")
    await named.execute(job, CollectingSink())

    assert subject.server.jobs[0].json["model"] == subject.expected.upstream_id


def _offered(models: list[BackendModel]) -> list[str]:
    return [model.model_id for model in models if not model.withheld]


@over(name for name in SUBJECTS if SUBJECTS[name].checks_key)
async def test_is_unhealthy_with_a_wrong_key_and_says_what_to_do(subject: Subject) -> None:
    wrong = subject.with_settings(api_key="sk-wrong-0123456789")

    health = await wrong.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "key" in health.last_error
    assert "api_key_env" in health.last_error
    assert "sk-wrong" not in health.last_error


@every_server
async def test_is_unhealthy_when_nobody_listens(subject: Subject, unused_tcp_port: int) -> None:
    nobody = subject.with_settings(url=f"http://127.0.0.1:{unused_tcp_port}")

    health = await nobody.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "refused" in health.last_error
    assert health.loading is nobody.native, "it may be starting"
    with pytest.raises(Unreachable):
        await nobody.list_models()


# --- jobs -----------------------------------------------------------------------------------------


async def run(
    subject: Subject, wire_format: WireFormat, *, stream: bool
) -> tuple[CollectingSink, tuple[int | None, int | None]]:
    """Run a usual job to its good end."""
    sink = CollectingSink()
    await subject.backend.list_models()
    result = await subject.backend.execute(subject.job(wire_format, stream=stream), sink)
    assert result.total_bytes == len(sink.data)
    return sink, (result.input_tokens, result.output_tokens)


@over_formats(SUBJECTS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_runs_a_job(subject: Subject, wire_format: WireFormat, stream: bool) -> None:
    sink, usage = await run(subject, wire_format, stream=stream)

    assert sink.status == 200
    kind = "text/event-stream" if stream else "application/json"
    assert sink.content_type.startswith(kind)
    end = b'"type":"message_stop"}\n\n' if wire_format is ANTHROPIC else b"data: [DONE]\n\n"
    assert not stream or sink.data.endswith(end)
    assert stream or isinstance(msgspec.json.decode(sink.data), dict)
    if subject.expected.usage:
        assert usage == subject.expected.usage
    assert all(usage)


@over_operations(SUBJECTS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_runs_every_operation_that_it_offers(
    subject: Subject, operation: Operation, stream: bool
) -> None:
    sink = CollectingSink()
    await subject.backend.list_models()

    result = await subject.backend.execute(subject.job_for(operation, stream=stream), sink)

    assert sink.status == 200
    assert result.total_bytes == len(sink.data) > 0
    if subject.server is not None:
        assert sink.data == subject.server.jobs[0].sent
    if operation is not Operation.COUNT_TOKENS:
        assert result.input_tokens
    if operation not in (Operation.COUNT_TOKENS, EMBEDDINGS):
        assert result.output_tokens


@over_formats(FAKES)
@pytest.mark.parametrize("cut_bytes", [None, 1, 7])
async def test_relays_the_very_bytes_that_the_server_sent(
    subject: Subject, wire_format: WireFormat, cut_bytes: int | None
) -> None:
    assert subject.server is not None
    subject.server.cut_bytes = cut_bytes

    sink, usage = await run(subject, wire_format, stream=True)

    assert sink.data == subject.server.jobs[0].sent
    assert usage == subject.expected.usage


@over_formats(REAL)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_relays_the_very_bytes_that_a_real_server_sent(
    subject: Subject, wire_format: WireFormat, stream: bool
) -> None:
    async with Tap(subject.backend.settings.url) as tap:
        backend = subject.with_settings(url=tap.url)
        sink = CollectingSink()
        job = subject.job(wire_format, stream=stream, max_tokens=100)

        await backend.execute(job, sink)

    assert len(sink.data) > 100
    assert sink.data == tap.jobs[0].sent


@over_formats(["real-llamacpp"])  # vLLM cuts equal text into different events
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_relays_what_the_real_server_sends_when_asked_directly(
    subject: Subject, wire_format: WireFormat, stream: bool
) -> None:
    job = subject.job(
        wire_format,
        stream=stream,
        max_tokens=20,
        temperature=0,
        seed=1,
        cache_prompt=False,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    sink = CollectingSink()

    await subject.backend.execute(job, sink)

    settings = subject.backend.settings
    url = settings.url + MAIN_OPERATION[wire_format].path
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings.api_key}"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=job.request, headers=headers) as response,
    ):
        direct = await response.read()
    assert len(direct) > 100
    assert _without_ids_and_clocks(bytes(sink.data)) == _without_ids_and_clocks(direct)


def _without_ids_and_clocks(data: bytes) -> bytes:
    """What differs between two equal answers of a server."""
    data = re.sub(rb'"id":"[^"]+"', b'"id":""', data)
    data = re.sub(rb'"created":\d+', b'"created":0', data)
    return re.sub(rb'"timings":\{[^}]*\}', b'"timings":{}', data)


@over_formats(FAKES, spoken=False)
async def test_a_format_that_the_server_does_not_speak_is_an_error(
    subject: Subject, wire_format: WireFormat
) -> None:
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await subject.backend.execute(subject.job(wire_format), sink)

    assert caught.value.status == 404
    assert sink.data == b""


@every_fake
async def test_the_request_names_the_servers_own_model_and_is_else_unchanged(
    subject: Subject,
) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    job = subject.job(stream=False, temperature=0.25, x_unknown={"b": [1, 2.50], "a": None})

    await subject.backend.execute(job, CollectingSink())

    sent = subject.server.jobs[0].json
    asked = msgspec.json.decode(job.request, type=dict[str, object])
    own = {"venice_parameters": {"include_venice_system_prompt": False}}
    added = own if subject.backend.kind == "venice" else {}
    assert sent == {**asked, "model": subject.expected.upstream_id, **added}


@every_fake
async def test_usage_is_asked_for_only_where_it_must_be(subject: Subject) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    for stream in (True, False):
        await subject.backend.execute(subject.job(stream=stream), CollectingSink())

    streamed, whole = subject.server.jobs
    assert streamed.asks_for_usage is subject.expected.asks_for_usage
    assert "stream_options" not in whole.json


@over_formats(FAKES, ANTHROPIC)
async def test_messages_get_no_openai_fields(subject: Subject, wire_format: WireFormat) -> None:
    assert subject.server is not None
    await subject.backend.list_models()

    await subject.backend.execute(subject.job(wire_format), CollectingSink())

    assert "stream_options" not in subject.server.jobs[0].json


@every_fake
async def test_only_the_operators_key_and_known_headers_go_upstream(subject: Subject) -> None:
    assert subject.server is not None

    await subject.backend.list_models()
    await subject.backend.execute(subject.job(), CollectingSink())

    headers = subject.server.jobs[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept-encoding"] == "identity"
    assert set(headers) == {
        "host",
        "user-agent",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "authorization",
        "x-request-id",
    }


@every_backend
async def test_a_full_window_stops_the_source_and_loses_nothing(subject: Subject) -> None:
    sink = CollectingSink(pause_at=1)
    job = subject.job(max_tokens=50)
    await subject.backend.list_models()
    running = asyncio.create_task(subject.backend.execute(job, sink))
    await sink.paused.wait()
    before = len(sink.data)
    for _ in range(20):  # nothing may arrive, so there is no event to wait for
        await asyncio.sleep(0)
    assert len(sink.data) == before
    assert not running.done()

    sink.resume()
    result = await running

    assert result.total_bytes == len(sink.data) >= before
    assert sink.data.endswith(b"data: [DONE]\n\n")
