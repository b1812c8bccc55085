"""Whatever servers, configuration and operators supply, every frame decodes at the coordinator."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import (
    BackendHealth,
    BackendModel,
    BadStatus,
    ModelServerLoad,
    ModelState,
    Operation,
    ResponseOutcome,
    ServerLoad,
    Usage,
)
from provider_agent.agent.backends.capabilities import agent_limits, metadata, model_offers
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal, RefusalReason
from provider_agent.agent.config import LimitsConfig, OperatorConfig
from provider_agent.agent.config.schema import Price, PricingConfig
from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.ends import (
    JobReport,
    backend_error_end,
    error_end,
    refusal_end,
    result_end,
)
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.telemetry.backend_loads import backend_loads
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import AgentFrame, Capabilities, Heartbeat
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES
from tests.kit.agent_config import agent_config
from tests.kit.fake_clock import FakeClock
from tests.kit.job_channels import RecordingSource
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_backend import model as scripted_model

JOB_ID = bytes(16)

any_character = st.characters(exclude_categories=())
"""Any character, also surrogates and control characters."""
texts = st.one_of(
    st.text(any_character, max_size=20),
    st.builds(str.__mul__, st.text(any_character, min_size=1, max_size=3), st.just(5000)),
    st.sampled_from(["\udcff", "caf\udce9", "a\nb", "\x1b[2J", "\0", "m" * 513]),
)
integers = st.integers() | st.sampled_from([-1, 0, 1, 2**53 - 1, 2**53, 2**60, 2**64, -(2**70)])
floats = st.floats() | st.sampled_from([0.0, 1.5, -1.0])


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


usages = st.builds(Usage, *[maybe(integers)] * 5)
models = st.builds(
    BackendModel,
    model_id=texts,
    context_window=maybe(integers),
    native=st.booleans(),
    operations=st.frozensets(st.sampled_from(Operation)),
    upstream_id=texts,
    input_price_per_1m=maybe(integers),
    output_price_per_1m=maybe(integers),
    max_output_tokens=maybe(integers),
    input_kinds=maybe(st.frozensets(texts, max_size=20)),
    tools=maybe(st.booleans()),
)
model_loads = st.builds(
    ModelServerLoad,
    running=maybe(integers),
    waiting=maybe(integers),
    cache_used=maybe(floats),
    prefill_tokens_per_second=maybe(floats),
    decode_tokens_per_second=maybe(floats),
)


def check_decodes(*frames: AgentFrame) -> None:
    for frame in frames:
        message = VERSION_1.encode([frame])
        decoded = VERSION_1.decode_from_agent(message, MIN_MESSAGE_TO_COORDINATOR_BYTES)
        assert decoded.unknown_types == []


@st.composite
def backends(draw: st.DrawFn) -> ScriptedBackend:
    offered = draw(st.lists(models, max_size=4))
    backend = ScriptedBackend(draw(texts), *offered)
    backend.kind = draw(texts)  # type: ignore[misc]
    backend.max_concurrent = draw(integers)
    backend.reported_health = BackendHealth(draw(st.booleans()), draw(maybe(floats)), draw(texts))
    backend.reported_load = ServerLoad(
        draw(maybe(integers)),
        draw(maybe(integers)),
        draw(maybe(floats)),
        {model.model_id: draw(model_loads) for model in offered},
    )
    return backend


@given(
    st.lists(backends(), max_size=3, unique_by=lambda one: one.id),
    st.builds(OperatorConfig, display_name=texts, wallet=texts, contact_email=texts),
    st.builds(PricingConfig, models=st.dictionaries(texts, st.builds(Price, integers, integers))),
    st.builds(LimitsConfig, max_concurrent=integers, max_tokens_per_minute=maybe(integers)),
)
def test_capabilities_and_heartbeat_of_any_server_decode(
    served: list[ScriptedBackend],
    operator: OperatorConfig,
    pricing: PricingConfig,
    limits: LimitsConfig,
) -> None:
    config = agent_config("wss://c.example", operator=operator, pricing=pricing, limits=limits)
    discovery = Discovery(
        Backends(list(served), {}, []), lambda: None, pricing=pricing, clock=FakeClock()
    )
    asyncio.run(discovery.check_all())
    check_decodes(
        Capabilities(
            1,
            model_offers(discovery.served_models()),
            agent_limits(config),
            dict(metadata(config)),
        ),
        Heartbeat(0, 0, 0, None, None, None, None, backend_loads(discovery.monitors)),
    )


def test_each_frame_about_very_many_servers_and_models_fits_into_one_message() -> None:
    name = "\N{GRINNING FACE}" * 500
    backends = []
    for n in range(300):
        offered = [scripted_model(f"{n} {k} {name}") for k in range(20)]
        backend = ScriptedBackend(f"{n} {name}", *offered)
        backend.reported_load = ServerLoad(
            models={model.model_id: ModelServerLoad(ModelState.LOADED) for model in offered}
        )
        backends.append(backend)
    discovery = Discovery(Backends(list(backends), {}, []), lambda: None, clock=FakeClock())
    asyncio.run(discovery.check_all())
    operator = OperatorConfig(display_name=name * 20, wallet=name * 20, contact_email=name * 20)
    config = agent_config("wss://c.example", operator=operator)
    capabilities = Capabilities(
        1,
        model_offers(discovery.served_models()),
        agent_limits(config),
        dict(metadata(config)),
    )
    heartbeat = Heartbeat(0, 0, 0, None, None, None, None, backend_loads(discovery.monitors))
    check_decodes(capabilities, heartbeat)
    assert len(capabilities.models) > 100
    assert len(heartbeat.backends) > 100
    assert any(load.models for load in heartbeat.backends)


@given(
    st.integers(100, 599),
    texts,
    texts,
    st.dictionaries(st.sampled_from(["x-request-id", "Retry-After", "other"]) | texts, texts),
)
def test_start_of_any_response_decodes(
    status: int, content_type: str, backend_id: str, headers: dict[str, str]
) -> None:
    async def start() -> list[AgentFrame]:
        outbox = Outbox()
        channel: JobChannel = outbox.open(JOB_ID)
        channel.assign(backend_id)
        channel.started(status, content_type, RecordingSource(), headers)
        return outbox.next_batch()

    check_decodes(*asyncio.run(start()))


@given(
    texts,
    texts,
    floats,
    maybe(floats),
    usages,
    integers,
    maybe(floats),
    st.sampled_from([0, 100, 10**6]),
)
def test_end_of_any_job_decodes(
    backend_id: str,
    message: str,
    duration_s: float,
    first_byte_s: float | None,
    usage: Usage,
    status: int,
    retry_after_s: float | None,
    body_bytes: int,
) -> None:
    outbox = Outbox()
    channel = outbox.open(JOB_ID)
    channel.response_ended(ResponseOutcome(usage))
    report = JobReport(
        JOB_ID, 0, channel.outcome, backend_id, duration_s, first_byte_s, OfferedPrice(1, 2)
    )
    error = BadStatus(status, bytes(body_bytes), ErrorCode.BAD_REQUEST, retry_after_s, message)
    refusal = Refusal(RefusalReason.AGENT_FULL, message, retry_after_s)
    check_decodes(
        result_end(report),
        backend_error_end(report, error),
        refusal_end(report, refusal),
        error_end(report, ErrorCode.DRAINING, message),
    )
