"""The adapter for OpenRouter, a remote service that forwards requests to many providers.

OpenRouter supports both wire formats, and translates a request if the provider does not support its
format. `/v1/models` accepts any key, so the key is checked with `/v1/key`. The models are taken
from `/v1/models/user`, which applies the account's privacy and provider settings. The last chunk of
a stream always reports the usage (`openrouter.ai/docs`, streaming), so a request need not ask for
it.
"""

from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    PASSTHROUGH_POLICY,
    BackendError,
    BackendModel,
    BadStatus,
    RequestPolicy,
)
from provider_agent.adapters.requests.bounds import IDENTIFIER, OPTIONS, TOP_K
from provider_agent.adapters.requests.rules import Fields, Object
from provider_agent.adapters.servers.catalog_prices import CatalogPrice, is_charged, worst_price
from provider_agent.adapters.servers.input_kinds import kinds_from_names
from provider_agent.adapters.servers.passthrough import (
    PassthroughBackend,
    decode_valid_entries,
    is_due,
    smallest_context_window,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

_TEXT: Final = frozenset(
    {Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES}
)
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_LIST_UNAVAILABLE: Final = frozenset({403, 404, 405})
"""Statuses of `/v1/models/user` for an account that does not have this list."""


class _Key(msgspec.Struct):
    limit_remaining: float | None = None


class _KeyResponse(msgspec.Struct):
    data: _Key


class _Architecture(msgspec.Struct):
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _TopProvider(msgspec.Struct):
    context_length: int | None = None
    max_completion_tokens: int | None = None


class _Model(msgspec.Struct):
    id: str
    context_length: int | None = None
    architecture: _Architecture | None = None
    pricing: dict[str, object] | None = None
    top_provider: _TopProvider | None = None
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

        OpenRouter sends a request with the field only to such a provider (openrouter.ai/docs,
        models).
        """
        parameters = self.supported_parameters
        return None if parameters is None else parameter in parameters


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


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
"""Prices of what the request policy removes (caches of one hour, searches) and of output other than
text; a discount; and a list that `_price` reads."""


def _price(model: _Model) -> CatalogPrice:
    """Return the price of a model (openrouter.ai/docs, models: pricing object).

    `overrides` has the prices that apply to long prompts or at some times of day.
    """
    base = model.pricing or {}
    overrides = base.get("overrides") or []
    if not isinstance(overrides, list) or not all(isinstance(one, dict) for one in overrides):
        return CatalogPrice(unknown="its long-context prices are unknown")
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


_SAMPLING: Final[Fields] = {
    **dict.fromkeys(("min_p", "top_a", "repetition_penalty")),
    "top_k": TOP_K,
}
_CACHE_CONTROL: Final = Object({"type": None})
_POLICY: Final = msgspec.structs.replace(
    PASSTHROUGH_POLICY.extended(
        {
            Operation.CHAT: {
                **_SAMPLING,
                "reasoning": OPTIONS,
                "include_reasoning": None,
                "cache_control": _CACHE_CONTROL,
            },
            Operation.COMPLETIONS: _SAMPLING,
            Operation.EMBEDDINGS: {"input_type": IDENTIFIER},
            Operation.RESPONSES: _SAMPLING,
            Operation.MESSAGES: {"cache_control": _CACHE_CONTROL},
        }
    ),
    # OpenRouter reads files with a plugin, which costs extra, for models that cannot read them.
    without=frozenset(
        {"messages.content.file", "messages.content.document", "input.content.input_file"}
    ),
)
"""OpenRouter's fields that change only the answer (openrouter.ai/docs, API reference)."""


class OpenRouterBackend(PassthroughBackend):
    """One OpenRouter account."""

    kind: ClassVar[str] = "openrouter"
    service: ClassVar[str] = "OpenRouter"
    default_url: ClassVar[str] = "https://openrouter.ai/api"
    request_policy: ClassVar[RequestPolicy] = _POLICY
    asks_for_usage: ClassVar[bool] = False

    async def check_key(self) -> None:
        """Check that the key is valid and its spending limit is not used up."""
        remaining = (await self.get_json("/v1/key", _KeyResponse)).data.limit_remaining
        if remaining is not None and remaining <= 0:
            error = BackendError("the key's spending limit is used up; raise it at OpenRouter")
            error.code = ErrorCode.AUTH_REJECTED_BY_BACKEND
            raise error

    async def fetch_catalog(self) -> list[BackendModel]:
        """Fetch the account's model list, or the public one if the account has none."""
        try:
            models = await self.get_json("/v1/models/user", _Models)
        except BadStatus as error:
            if error.status not in _LIST_UNAVAILABLE:
                raise
            models = await self.get_json("/v1/models", _Models)
        return [self._model(model) for model in decode_valid_entries(models.data, _Model)]

    def _why_withheld(self, model: _Model) -> str:
        if model.output not in (["text"], ["embeddings"]):
            return f"its output is {' and '.join(model.output) or 'unknown'}, not only text"
        expires = model.expiration_date
        if expires and is_due(expires, self.today()):
            return f"expired at OpenRouter ({expires[:10]})"
        return ""

    def _model(self, model: _Model) -> BackendModel:
        price = _price(model)
        provider = model.top_provider or _TopProvider()
        return BackendModel(
            model_id=model.id,
            context_window=model.context_window,
            native=self.native,
            operations=_EMBEDDINGS if model.output == ["embeddings"] else _TEXT,
            upstream_id=model.id,
            withheld=self._why_withheld(model),
            input_price_per_1m=price.input_per_1m,
            output_price_per_1m=price.output_per_1m,
            price_unknown=price.unknown,
            max_output_tokens=provider.max_completion_tokens,
            input_kinds=kinds_from_names(model.input),
            tools=model.supports("tools"),
            json_schema=model.supports("structured_outputs"),
            reasoning=model.supports("reasoning"),
        )
