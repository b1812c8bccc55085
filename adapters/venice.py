"""Venice.ai: a remote passthrough that speaks the OpenAI format only.

`/v1/models` is public, so the key is checked with `/v1/api_keys/rate_limits`, which an inference
key may ask (`api.venice.ai`, OpenAPI of August 2026). There is no Messages route.
"""

from typing import ClassVar, Final

import msgspec

from adapters.base import BackendModel
from adapters.passthrough import (
    PassthroughBackend,
    has_passed,
    micro_usd_per_million,
    readable,
)
from protocol.formats import Operation

_OPERATIONS: Final = frozenset({Operation.CHAT})
_PRICED_TOKENS: Final = 1_000_000


class _Usd(msgspec.Struct):
    usd: float | None = None


class _Pricing(msgspec.Struct):
    input: _Usd | None = None
    output: _Usd | None = None


class _Deprecation(msgspec.Struct):
    date: str | None = None


class _Spec(msgspec.Struct):
    context_tokens: int | None = msgspec.field(name="availableContextTokens", default=None)
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


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


class _RateLimits(msgspec.Struct):
    data: msgspec.Raw


class VeniceBackend(PassthroughBackend):
    """See the module's text."""

    kind: ClassVar[str] = "venice"
    service: ClassVar[str] = "Venice"
    default_url: ClassVar[str] = "https://api.venice.ai/api"

    async def check_key(self) -> None:
        """The cheapest question that needs a key."""
        await self.fetch("/v1/api_keys/rate_limits", _RateLimits)

    async def catalogue(self) -> list[BackendModel]:
        """Text models that are online and not retired."""
        models = await self.fetch("/v1/models?type=text", _Models)
        return [
            self._model(model) for model in readable(models.data, _Model) if self._is_usable(model)
        ]

    def _is_usable(self, model: _Model) -> bool:
        """After its sunset date a name answers, but with another model behind it."""
        deprecation = model.spec.deprecation
        retired = deprecation is not None and (
            deprecation.date is None or has_passed(deprecation.date, self.today())
        )
        return model.type == "text" and not model.spec.offline and not retired

    def _model(self, model: _Model) -> BackendModel:
        pricing = model.spec.pricing or _Pricing()
        return BackendModel(
            model_id=model.id,
            context_window=model.spec.context_tokens or model.context_length,
            native=self.native,
            operations=_OPERATIONS,
            upstream_id=model.id,
            input_price_per_1m=_price(pricing.input),
            output_price_per_1m=_price(pricing.output),
        )


def _price(price: _Usd | None) -> int | None:
    return micro_usd_per_million(price.usd if price else None, tokens=_PRICED_TOKENS)
