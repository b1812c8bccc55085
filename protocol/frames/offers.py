"""What an agent offers, and the coordinator's answer."""

from typing import Annotated

from msgspec import Meta, Struct

from provider_agent.protocol.frames.fields import Count, Name, Text
from provider_agent.protocol.limits import MAX_MODELS


class ModelOffer(Struct, array_like=True, frozen=True):
    """One model that the agent serves.

    Attributes:
        model_id: the name that jobs use.
        formats: the wire formats that its servers support without translation.
        operations: the operations that its servers support without translation.
        context_window: in tokens, as the server runs the model, which may support more. None: not
            reported.
        native: whether it runs on the operator's machines; False for a passthrough.
        backend_kind: "vllm", "llamacpp", …
        max_concurrent: how many of its jobs may run at once.
        input_price_per_1m: millionths of a US dollar per million input tokens; None: no price.
        output_price_per_1m: the same for output tokens.
        max_output_tokens: the most tokens of one response; None: not reported.
        input_kinds: `text`, `image`, `audio`, …; None: not reported.
        tools: whether requests can offer tools; None: not reported.
        json_schema: whether requests can require a JSON schema; None: not reported.
        reasoning: whether the model can reason before it answers; None: not reported.
    """

    model_id: Name
    formats: Annotated[list[Name], Meta(max_length=16)]
    operations: Annotated[list[Name], Meta(max_length=64)]
    context_window: Count | None
    native: bool
    backend_kind: Name
    max_concurrent: Count
    input_price_per_1m: Count | None = None
    output_price_per_1m: Count | None = None
    max_output_tokens: Count | None = None
    input_kinds: Annotated[list[Name], Meta(max_length=16)] | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None


class AgentLimits(Struct, array_like=True, frozen=True):
    """The limits of the agent as a whole.

    Attributes:
        max_concurrent: how many jobs may run at once, all models together.
        max_tokens_per_minute: the operator's limit; None: no limit.
    """

    max_concurrent: Count
    max_tokens_per_minute: Count | None = None


class Capabilities(Struct, tag=34, array_like=True, frozen=True):
    """What the agent serves now; replaces the previous `Capabilities`.

    Attributes:
        revision: increases with every change within one process.
        models: one offer per model.
        limits: of the agent as a whole.
        metadata: what the operator publishes (display name, wallet, …); informational.
    """

    revision: Count
    models: Annotated[list[ModelOffer], Meta(max_length=MAX_MODELS)]
    limits: AgentLimits
    metadata: Annotated[dict[Name, Text], Meta(max_length=64)] = {}


class UnroutableModel(Struct, array_like=True, frozen=True):
    """An offered model for which the coordinator sends no jobs.

    Attributes:
        model_id: as offered.
        code: `price`, `unknown_model`, `quota`, `not_verified`, `capacity` or another short name.
        message: human-readable.
    """

    model_id: Name
    code: Name
    message: Name


class RoutingStatus(Struct, tag=10, array_like=True, frozen=True):
    """The coordinator's answer to `Capabilities`; replaces the previous `RoutingStatus`.

    Attributes:
        revision: of the `Capabilities` that it answers.
        unroutable: the offered models that receive no jobs. If the list does not fit into a
            message, its last models are left out. All other offered models may receive jobs.
    """

    revision: Count
    unroutable: Annotated[list[UnroutableModel], Meta(max_length=MAX_MODELS)]


class Notice(Struct, tag=9, array_like=True, frozen=True):
    """A message of the coordinator to the operator.

    Attributes:
        code: a short name, such as `quota_exceeded`.
        severity: `info`, `warning` or `error`; an unknown one counts as `info`.
        message: human-readable.
        model_id: the model that it concerns; None: the agent as a whole.
    """

    code: Name
    severity: Name
    message: Text
    model_id: Name | None = None
