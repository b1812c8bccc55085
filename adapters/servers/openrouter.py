"""The adapter for OpenRouter, a remote service that forwards requests to many providers.

OpenRouter supports both wire formats, and translates a request if the provider does not support its
format. `/v1/models` accepts any key, so the key is checked with `/v1/key`. The models are taken
from `/v1/models/user`, which applies the account's privacy and provider settings. The last chunk of
a stream always reports the usage (`openrouter.ai/docs`, streaming), so a request need not ask for
it.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    PASSTHROUGH_POLICY,
    BackendError,
    BackendModel,
    BackendSettings,
    BadStatus,
    RequestPolicy,
)
from provider_agent.adapters.requests.bounds import IDENTIFIER, TOP_K
from provider_agent.adapters.requests.messages import CACHE_CONTROL
from provider_agent.adapters.requests.options import REASONING
from provider_agent.adapters.requests.rules import Fields
from provider_agent.adapters.servers.input_kinds import kinds_from_names
from provider_agent.adapters.servers.openrouter_catalog import (
    CatalogModel,
    TopProvider,
    price_of,
    provider_limit,
)
from provider_agent.adapters.servers.passthrough import (
    PassthroughBackend,
    decode_valid_entries,
    is_due,
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


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


_SAMPLING: Final[Fields] = {
    **dict.fromkeys(("min_p", "top_a", "repetition_penalty")),
    "top_k": TOP_K,
}
_POLICY: Final = msgspec.structs.replace(
    PASSTHROUGH_POLICY.extended(
        {
            Operation.CHAT: {
                **_SAMPLING,
                "reasoning": REASONING,
                "include_reasoning": None,
                "cache_control": CACHE_CONTROL,
            },
            Operation.COMPLETIONS: _SAMPLING,
            Operation.EMBEDDINGS: {"input_type": IDENTIFIER},
            Operation.RESPONSES: _SAMPLING,
            Operation.MESSAGES: {"cache_control": CACHE_CONTROL},
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

    def __init__(
        self,
        settings: BackendSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings, clock=clock, wall_clock=wall_clock)
        self._provider_limits: dict[str, msgspec.Raw] = {}
        """The `provider` field that limits the price of a request, by model id."""

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
        found = decode_valid_entries(models.data, CatalogModel)
        self._provider_limits = {
            model.id: limit for model in found if (limit := provider_limit(model))
        }
        return [self._model(model) for model in found]

    def extra_fields(
        self,
        operation: Operation,  # noqa: ARG002
        upstream_id: str,
    ) -> dict[str, msgspec.Raw]:
        """Exclude providers that charge more than the catalog's price.

        The catalog has one price for a model, but its providers have their own, and OpenRouter
        falls back to expensive ones. A client can force that, for example with an output limit that
        only an expensive provider supports (openrouter.ai/docs, provider routing).
        """
        limit = self._provider_limits.get(upstream_id)
        return {} if limit is None else {"provider": limit}

    def _why_withheld(self, model: CatalogModel) -> str:
        if model.output not in (["text"], ["embeddings"]):
            return f"its output is {' and '.join(model.output) or 'unknown'}, not only text"
        expires = model.expiration_date
        if expires and is_due(expires, self.today()):
            return f"expired at OpenRouter ({expires[:10]})"
        return ""

    def _model(self, model: CatalogModel) -> BackendModel:
        price = price_of(model)
        provider = model.top_provider or TopProvider()
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
