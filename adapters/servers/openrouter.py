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
from provider_agent.adapters.servers.input_kinds import kinds_from_names
from provider_agent.adapters.servers.passthrough import (
    PassthroughBackend,
    decode_valid_entries,
    is_due,
    micro_usd_per_million,
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


class _Pricing(msgspec.Struct):
    prompt: str | float | None = None
    completion: str | float | None = None


class _TopProvider(msgspec.Struct):
    context_length: int | None = None
    max_completion_tokens: int | None = None


class _Model(msgspec.Struct):
    id: str
    context_length: int | None = None
    architecture: _Architecture | None = None
    pricing: _Pricing | None = None
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

    def supports(self, parameter: str) -> bool | None:
        """Whether a provider of the model accepts this request field; None if not reported.

        OpenRouter sends a request with the field only to such a provider (openrouter.ai/docs,
        models).
        """
        parameters = self.supported_parameters
        return None if parameters is None else parameter in parameters


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


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
        pricing = model.pricing or _Pricing()
        provider = model.top_provider or _TopProvider()
        return BackendModel(
            model_id=model.id,
            context_window=model.context_window,
            native=self.native,
            operations=_EMBEDDINGS if model.output == ["embeddings"] else _TEXT,
            upstream_id=model.id,
            withheld=self._why_withheld(model),
            input_price_per_1m=micro_usd_per_million(pricing.prompt, tokens=1),
            output_price_per_1m=micro_usd_per_million(pricing.completion, tokens=1),
            max_output_tokens=provider.max_completion_tokens,
            input_kinds=kinds_from_names(model.input),
            tools=model.supports("tools"),
            json_schema=model.supports("structured_outputs"),
            reasoning=model.supports("reasoning"),
        )
