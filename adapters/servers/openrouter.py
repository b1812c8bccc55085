"""OpenRouter: a remote passthrough to many providers, in every format: it translates by itself.

The public `/v1/models` answers a made-up key with 200, so the key is checked with `/v1/key`, and
the models are those of `/v1/models/user`, which follows the account's privacy and provider
settings. Usage always comes in a stream's last chunk (`openrouter.ai/docs`, streaming).
"""

from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import BackendError, BackendModel, BadStatus, RequestPolicy
from provider_agent.adapters.requests.policy import WEB_SEARCH_TOOLS
from provider_agent.adapters.servers.passthrough import (
    PassthroughBackend,
    decode_valid_entries,
    has_passed,
    micro_usd_per_million,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

_TEXT: Final = frozenset(
    {Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES}
)
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_NO_SUCH_LIST: Final = frozenset({403, 404, 405})
"""How `/v1/models/user` answers where an account does not have it."""


class _Key(msgspec.Struct):
    limit_remaining: float | None = None


class _KeyAnswer(msgspec.Struct):
    data: _Key


class _Architecture(msgspec.Struct):
    output_modalities: list[str] | None = None


class _Pricing(msgspec.Struct):
    prompt: str | float | None = None
    completion: str | float | None = None


class _TopProvider(msgspec.Struct):
    context_length: int | None = None


class _Model(msgspec.Struct):
    id: str
    context_length: int | None = None
    architecture: _Architecture | None = None
    pricing: _Pricing | None = None
    top_provider: _TopProvider | None = None
    expiration_date: str | None = None

    @property
    def context_window(self) -> int | None:
        """The smaller one: the model's own is that of its most generous provider."""
        provider = self.top_provider.context_length if self.top_provider else None
        return min((n for n in (provider, self.context_length) if n), default=None)

    @property
    def output(self) -> list[str]:
        """What comes out of it; text when it does not say."""
        told = self.architecture.output_modalities if self.architecture else None
        return ["text"] if told is None else told


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


class OpenRouterBackend(PassthroughBackend):
    """The adapter of OpenRouter."""

    kind: ClassVar[str] = "openrouter"
    service: ClassVar[str] = "OpenRouter"
    default_url: ClassVar[str] = "https://openrouter.ai/api"
    # Other models, other providers, paid plugins and searches (openrouter.ai/docs, API reference).
    request_policy: ClassVar[RequestPolicy] = RequestPolicy(
        frozenset(
            {"models", "provider", "plugins", "route", "preset", "transforms", "web_search_options"}
        ),
        ("openrouter:", *WEB_SEARCH_TOOLS),
    )
    asks_for_usage: ClassVar[bool] = False

    async def check_key(self) -> None:
        """`/v1/key` tells whether the key is valid and what may still be spent with it."""
        remaining = (await self.get_json("/v1/key", _KeyAnswer)).data.limit_remaining
        if remaining is not None and remaining <= 0:
            error = BackendError("the key's spending limit is used up; raise it at OpenRouter")
            error.code = ErrorCode.AUTH_REJECTED_BY_BACKEND
            raise error

    async def fetch_catalog(self) -> list[BackendModel]:
        """The account's own list, or the public one."""
        try:
            models = await self.get_json("/v1/models/user", _Models)
        except BadStatus as error:
            if error.status not in _NO_SUCH_LIST:
                raise
            models = await self.get_json("/v1/models", _Models)
        return [self._model(model) for model in decode_valid_entries(models.data, _Model)]

    def _why_withheld(self, model: _Model) -> str:
        if model.output not in (["text"], ["embeddings"]):
            return f"it answers with {' and '.join(model.output) or 'nothing'}, not with text only"
        expires = model.expiration_date
        if expires and has_passed(expires, self.today()):
            return f"OpenRouter has ended it ({expires[:10]})"
        return ""

    def _model(self, model: _Model) -> BackendModel:
        pricing = model.pricing or _Pricing()
        return BackendModel(
            model_id=model.id,
            context_window=model.context_window,
            native=self.native,
            operations=_EMBEDDINGS if model.output == ["embeddings"] else _TEXT,
            upstream_id=model.id,
            withheld=self._why_withheld(model),
            input_price_per_1m=micro_usd_per_million(pricing.prompt, tokens=1),
            output_price_per_1m=micro_usd_per_million(pricing.completion, tokens=1),
        )
