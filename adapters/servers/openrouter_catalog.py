"""The entries of OpenRouter's catalog, and what their models cost."""

from fractions import Fraction
from typing import Final

import msgspec

from provider_agent.adapters.servers.catalog_prices import (
    CatalogPrice,
    is_charged,
    micro_usd_per_million,
    worst_price,
)
from provider_agent.adapters.servers.passthrough import smallest_context_window


class Architecture(msgspec.Struct):
    """What a model reads and writes."""

    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class TopProvider(msgspec.Struct):
    """The provider that OpenRouter prefers for a model."""

    context_length: int | None = None
    max_completion_tokens: int | None = None


class CatalogModel(msgspec.Struct):
    """One entry of the catalog."""

    id: str
    context_length: int | None = None
    architecture: Architecture | None = None
    pricing: dict[str, object] | None = None
    top_provider: TopProvider | None = None
    expiration_date: str | None = None
    supported_parameters: list[str] | None = None

    @property
    def context_window(self) -> int | None:
        """The smaller of two windows: the top provider's, and the largest of any provider."""
        provider = self.top_provider.context_length if self.top_provider else None
        return smallest_context_window(provider, self.context_length)

    @property
    def output(self) -> list[str]:
        """The output modalities; text if not reported."""
        reported = self.architecture.output_modalities if self.architecture else None
        return ["text"] if reported is None else reported

    @property
    def input(self) -> list[str] | None:
        """The input modalities; None if not reported."""
        return self.architecture.input_modalities if self.architecture else None

    def accepts(self, kind: str) -> bool:
        """Whether requests may contain this kind of input, as far as is known."""
        return self.input is None or kind in self.input

    def supports(self, parameter: str) -> bool | None:
        """Whether a provider of the model accepts this request field; None if not reported.

        OpenRouter prefers such a provider for a request with `tools`, and requires one that allows
        the request's `max_tokens`. For most other fields, it may choose a provider that ignores
        them (openrouter.ai/docs, provider routing).
        """
        parameters = self.supported_parameters
        return None if parameters is None else parameter in parameters


_INPUT_PRICES: Final = {
    "prompt": "text",
    "input_cache_read": "text",
    "input_cache_write": "text",
    "audio": "audio",
    "input_audio_cache": "audio",
    "image_token": "image",
}
"""Prices of one input token, each with the kind of input that it is for."""

_OUTPUT_PRICES: Final = ("completion", "internal_reasoning")
_FEES: Final = {"request": "text", "image": "image"}
"""Prices of one request and of one input image."""

_NOT_CHARGED: Final = frozenset(
    {"input_cache_write_1h", "web_search", "image_output", "audio_output", "discount", "overrides"}
)
"""Fields of `pricing` that are not part of the price per token: prices of what the request policy
removes (caches of one hour, searches) and of output other than text; the discount; and `overrides`,
whose rows `price_of` reads."""


def price_of(model: CatalogModel) -> CatalogPrice:
    """Return the price of a model (openrouter.ai/docs, models: pricing object).

    `overrides` has the prices that apply to long prompts or at some times of day.
    """
    base = model.pricing or {}
    overrides = base.get("overrides") or []
    if not isinstance(overrides, list) or not all(isinstance(one, dict) for one in overrides):
        return CatalogPrice(unknown="its prices for long prompts or some times of day are unknown")
    rows = [base, *overrides]
    if model.supports("web_search_options") and is_charged(base.get("web_search")):
        return CatalogPrice(unknown="it can search the web without being asked, for a fee")
    for name, kind in _FEES.items():
        if model.accepts(kind) and any(is_charged(row.get(name)) for row in rows):
            return CatalogPrice(unknown=f"it costs a fee per {name}, besides the price per token")
    known = {*_INPUT_PRICES, *_OUTPUT_PRICES, *_FEES, *_NOT_CHARGED}
    for row in rows:
        for name, value in row.items():
            if name not in known and isinstance(value, str) and is_charged(value):
                return CatalogPrice(unknown=f"it has a price of an unknown kind ({name})")
    inputs = [name for name, kind in _INPUT_PRICES.items() if model.accepts(kind)]
    return worst_price(
        [row.get(name) for row in rows for name in inputs],
        [row.get(name) for row in rows for name in _OUTPUT_PRICES],
        tokens=1,
    )


_HEADROOM: Final = Fraction(1001, 1000)
"""The limit is slightly above the price, so that rounding at OpenRouter excludes no provider of the
same price."""


def provider_limit(model: CatalogModel) -> msgspec.Raw | None:
    """Return the field `provider` that limits the price of providers; None if it is unknown.

    The limits are in US dollars per million tokens.
    """
    pricing = model.pricing or {}
    limits = {}
    for name in ("prompt", "completion"):
        price = micro_usd_per_million(pricing.get(name), tokens=1)
        if price is None:
            return None
        limits[name] = float(price * _HEADROOM / 1_000_000)
    return msgspec.Raw(msgspec.json.encode({"max_price": limits}))
