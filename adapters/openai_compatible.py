"""Any other server: a bare OpenAI model list, and the formats that the operator says it speaks."""

from typing import ClassVar

import msgspec

from adapters.base import BackendModel
from adapters.http import HttpBackend
from protocol.formats import MAIN_OPERATION


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None

    @property
    def context_window(self) -> int | None:
        """From whichever field this server happens to have; vLLM, others, llama.cpp."""
        return self.max_model_len or self.context_length or (self.meta and self.meta.n_ctx) or None


class _Models(msgspec.Struct):
    data: list[_Model]


class OpenAICompatibleBackend(HttpBackend):
    """See the module's text."""

    kind: ClassVar[str] = "openai_compatible"

    async def check_health(self) -> None:
        """Such a server has no health route in common with others: its model list must answer."""
        await self.fetch("/v1/models", _Models)

    async def list_models(self) -> list[BackendModel]:
        """All that it lists; see `Backend.list_models`."""
        operations = frozenset(MAIN_OPERATION[spoken] for spoken in self.settings.formats)
        models = await self.fetch("/v1/models", _Models)
        return self.offered(
            BackendModel(
                model_id=model.id,
                context_window=model.context_window,
                native=self.native,
                operations=operations,
                upstream_id=model.id,
            )
            for model in models.data
        )
