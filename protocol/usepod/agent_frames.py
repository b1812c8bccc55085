"""An agent's messages as our frames; those of jobs need the state of `coordinator_dialect`."""

from provider_agent.protocol.field_values import (
    clamp_count,
    to_line,
    valid_count,
    valid_measure,
    valid_share,
    valid_speed,
)
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    Heartbeat,
    Hello,
    ModelOffer,
    Usage,
)
from provider_agent.protocol.usepod import received


def hello(message: received.AuthResponse, instance_id: str) -> Hello:
    """Return the `Hello` of an agent process, whose id the dialect does not have."""
    return Hello(
        agent_version=to_line(message.agent_version),
        public_key=message.pubkey,
        signature=message.signature,
        enrollment_code=message.enrollment_code or "",
        instance_id=instance_id,
    )


def capabilities(message: received.OfferedCapabilities, revision: int) -> Capabilities:
    """Return the offers; the dialect does not number them."""
    limits = message.limits
    return Capabilities(
        revision=revision,
        models=[_offer(model) for model in message.models],
        limits=AgentLimits(limits.max_concurrent_total, limits.max_tokens_per_minute),
    )


def _offer(model: received.OfferedModel) -> ModelOffer:
    """Return the offer of a model, for chat only.

    The dialect does not say more, and the Rust agent sends every job to the chat route.
    """
    return ModelOffer(
        model_id=model.model_id,
        formats=[WireFormat.OPENAI.value],
        operations=[Operation.CHAT.value],
        context_window=model.context_window,
        native=True,
        backend_kind=to_line(model.backend),
        max_concurrent=model.max_concurrent,
        input_price_per_1m=model.input_per_1m,
        output_price_per_1m=model.output_per_1m,
    )


def heartbeat(message: received.AgentHeartbeat, *, in_flight: int, capacity: int) -> Heartbeat:
    """Return the load; a figure of 0 was not measured.

    Args:
        message: the message.
        in_flight: how many jobs the agent runs.
        capacity: how many jobs it offers to run at once.
    """
    return Heartbeat(
        in_flight=in_flight,
        queued=clamp_count(message.queue_depth),
        capacity=capacity,
        tokens_per_second=valid_speed(message.tokens_per_sec_p50),
        first_byte_p50_ms=valid_measure(message.p50_latency_ms) or None,
        first_byte_p95_ms=valid_measure(message.p95_latency_ms) or None,
        error_rate=valid_share(message.error_rate_60s) or None,
    )


def usage(tokens: received.Tokens | None) -> Usage:
    """Return the reported tokens; if both counts are 0, nothing is known about them."""
    if tokens is None:
        return Usage()
    counts = tokens.input or tokens.input_tokens, tokens.output or tokens.output_tokens
    return Usage(*map(valid_count, counts)) if any(counts) else Usage()
