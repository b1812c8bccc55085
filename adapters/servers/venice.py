"""The adapter for Venice.ai, a remote service that supports only the OpenAI format.

`/v1/models` is public, so the key is checked with `/v1/api_keys/rate_limits`, which accepts an
inference key (`api.venice.ai`, OpenAPI of August 2026). There is no Messages route and no legacy
completions route. Responses is restricted to invited accounts and therefore not offered.
"""

from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    PASSTHROUGH_POLICY,
    BackendModel,
    BreakerRule,
    RequestPolicy,
)
from provider_agent.adapters.requests.bounds import TOKEN_IDS, TOP_K
from provider_agent.adapters.requests.options import REASONING
from provider_agent.adapters.servers.catalog_prices import CatalogPrice, worst_price
from provider_agent.adapters.servers.input_kinds import kinds_from_flags
from provider_agent.adapters.servers.passthrough import (
    PassthroughBackend,
    decode_valid_entries,
    is_due,
    smallest_context_window,
)
from provider_agent.protocol.formats import Operation

_OPERATIONS: Final = {
    "text": frozenset({Operation.CHAT}),
    "embedding": frozenset({Operation.EMBEDDINGS}),
}
_PRICED_TOKENS: Final = 1_000_000
"""The number of tokens that a price of the catalog is for."""


class _Usd(msgspec.Struct):
    usd: float | None = None


class _Pricing(msgspec.Struct):
    input: _Usd | None = None
    output: _Usd | None = None
    cache_input: _Usd | None = None
    cache_write: _Usd | None = None
    extended: "_Pricing | None" = None
    """The prices of a prompt above a number of tokens (`context_token_threshold`)."""


class _Deprecation(msgspec.Struct):
    date: str | None = None


class _Capabilities(msgspec.Struct):
    vision: bool | None = msgspec.field(name="supportsVision", default=None)
    audio: bool | None = msgspec.field(name="supportsAudioInput", default=None)
    video: bool | None = msgspec.field(name="supportsVideoInput", default=None)
    tools: bool | None = msgspec.field(name="supportsFunctionCalling", default=None)
    json_schema: bool | None = msgspec.field(name="supportsResponseSchema", default=None)
    reasoning: bool | None = msgspec.field(name="supportsReasoning", default=None)


class _Spec(msgspec.Struct):
    context_tokens: int | None = msgspec.field(name="availableContextTokens", default=None)
    output_tokens: int | None = msgspec.field(name="maxCompletionTokens", default=None)
    capabilities: _Capabilities | None = None
    offline: bool | None = None
    pricing: _Pricing | None = None
    deprecation: _Deprecation | None = None


class _Model(msgspec.Struct):
    id: str
    type: str = "text"
    context_length: int | None = None
    model_spec: _Spec | None = None

    @property
    def spec(self) -> _Spec:
        return self.model_spec or _Spec()

    @property
    def context_window(self) -> int | None:
        """The smaller of the two reported windows, because the catalog overstates some."""
        return smallest_context_window(self.spec.context_tokens, self.context_length)


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


class _RateLimits(msgspec.Struct):
    data: msgspec.Raw


class VeniceBackend(PassthroughBackend):
    """One Venice account."""

    kind: ClassVar[str] = "venice"
    service: ClassVar[str] = "Venice"
    default_url: ClassVar[str] = "https://api.venice.ai/api"
    # Venice's fields that change only the answer (api.venice.ai, OpenAPI of August 2026).
    request_policy: ClassVar[RequestPolicy] = PASSTHROUGH_POLICY.allowing(
        {
            **dict.fromkeys(("min_p", "max_temp", "min_temp", "repetition_penalty")),
            "top_k": TOP_K,
            "stop_token_ids": TOKEN_IDS,
            "reasoning": REASONING,
        },
        [Operation.CHAT],
    )
    # Venice blocks a key for 30 s after more than 20 failed requests in 30 s, whatever their cause.
    # Stop before that, with a margin for the eight jobs that may be in flight by default.
    breaker_rule: ClassVar[BreakerRule] = BreakerRule(
        failures=12, window_s=30.0, open_s=30.0, counts_client_errors=True, per_model=True
    )

    async def check_key(self) -> None:
        """Check the key with the cheapest request that needs one."""
        await self.get_json("/v1/api_keys/rate_limits", _RateLimits)

    async def fetch_catalog(self) -> list[BackendModel]:
        """Fetch the models of each type that supports an operation.

        Only the list of the text models is required; without the other, its models are left out.
        """
        found: list[BackendModel] = []
        for model_type in _OPERATIONS:
            response = await self.request("GET", f"/v1/models?type={model_type}")
            if response.status != 200 and model_type == "text":
                raise self.status_error(response)
            self.version = response.headers.get("x-venice-version", self.version)
            if response.status == 200:
                models = decode_valid_entries(response.decode(_Models).data, _Model)
                found += [self._model(model) for model in models]
        return found

    def extra_fields(
        self,
        operation: Operation,
        upstream_id: str,  # noqa: ARG002
    ) -> dict[str, msgspec.Raw]:
        """Disable Venice's own system prompt, unless the operator allows it.

        It would precede the client's system prompt.
        """
        if self.settings.venice_system_prompt or operation is not Operation.CHAT:
            return {}
        return {"venice_parameters": msgspec.Raw(b'{"include_venice_system_prompt":false}')}

    def _why_withheld(self, model: _Model) -> str:
        """Return why a model is not offered; "" if it is offered.

        A deprecated model is withheld even before it is retired, because Venice serves another
        model under the name of a retired one.
        """
        if model.spec.offline:
            return "offline at Venice"
        deprecation = model.spec.deprecation
        if deprecation is None:
            return ""
        day = (deprecation.date or "")[:10]
        if day and not is_due(day, self.today()):
            return f"deprecated; Venice retires it on {day}"
        return f"retired by Venice ({day or 'no date'})"

    def _model(self, model: _Model) -> BackendModel:
        price = _price(model)
        can = model.spec.capabilities or _Capabilities()
        return BackendModel(
            model_id=model.id,
            context_window=model.context_window,
            native=self.native,
            operations=_OPERATIONS.get(model.type, frozenset()),
            upstream_id=model.id,
            withheld=self._why_withheld(model),
            input_price_per_1m=price.input_per_1m,
            output_price_per_1m=price.output_per_1m,
            price_unknown=price.unknown,
            max_output_tokens=model.spec.output_tokens,
            input_kinds=kinds_from_flags(image=can.vision, audio=can.audio, video=can.video),
            tools=can.tools,
            json_schema=can.json_schema,
            reasoning=can.reasoning,
        )


def _price(model: _Model) -> CatalogPrice:
    """Return the price of a model. Embedding models have no output, and no price for it."""
    base = model.spec.pricing or _Pricing()
    tiers = [base, base.extended or _Pricing()]
    inputs = [price for tier in tiers for price in (tier.input, tier.cache_input, tier.cache_write)]
    outputs = [tier.output for tier in tiers]
    if model.type == "embedding" and base.output is None:
        outputs = [_Usd(0)]
    return worst_price(
        [price and price.usd for price in inputs],
        [price and price.usd for price in outputs],
        tokens=_PRICED_TOKENS,
    )
