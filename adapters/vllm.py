"""vLLM: one base model, its aliases and LoRA adapters, in both formats since about 0.11.1.

Only `/v1` is guarded by the key, and `/health` says whether the engine lives, so health asks both.
Which routes exist depends on version and model: an empty request shows it without generating
(observed with 0.32: 400 where the route is there, 404 where it is not).
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from adapters.base import BackendError, BackendModel, BackendSettings
from adapters.http import HttpBackend
from adapters.remembered import RememberedOperations
from protocol.formats import Operation

_PROBED: Final = (Operation.CHAT, Operation.MESSAGES)

_ABSENT: Final = frozenset({404, 405, 501})
_PRESENT: Final = frozenset({400, 422})


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Version(msgspec.Struct):
    version: str = ""


class VllmBackend(HttpBackend):
    """See the module's text."""

    kind: ClassVar[str] = "vllm"

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._spoken = RememberedOperations()

    async def check_health(self) -> None:
        """The engine lives, and the key is accepted."""
        answer = await self.ask("GET", "/health")
        if answer.status == 503:
            raise BackendError("the engine of this vLLM has died (status 503); restart the server")
        if answer.status != 200:
            raise self._bad_status(answer.status, answer.body, None)
        await self.fetch("/v1/models", _Models)

    async def list_models(self) -> list[BackendModel]:
        """The base model under each of its names, and its adapters; see `Backend.list_models`."""
        models = (await self.fetch("/v1/models", _Models)).data
        operations = await self._operations(models)
        windows = {model.id: model.max_model_len for model in models if not model.parent}
        return self.offered(
            BackendModel(
                model_id=model.id,
                # An adapter has no window of its own.
                context_window=model.max_model_len or windows.get(model.parent or ""),
                native=self.native,
                operations=operations,
                upstream_id=model.id,
            )
            for model in models
        )

    async def _operations(self, models: list[_Model]) -> frozenset[Operation]:
        """The same for all models of a server: they share its base model and its routes."""
        answer = await self.ask("GET", "/version")
        version = answer.decode(_Version).version if answer.status == 200 else ""
        roots = sorted({model.root or model.id for model in models if not model.parent})
        return await self._spoken.get("\n".join([version, *roots]), self._probe)

    async def _probe(self) -> frozenset[Operation]:
        return frozenset([operation for operation in _PROBED if await self._answers(operation)])

    async def _answers(self, operation: Operation) -> bool:
        """Whether the route is there and this model can be asked over it."""
        answer = await self.ask("POST", operation.path, json={})
        if answer.status in _ABSENT or b"does not support" in answer.body:
            return False  # the second is a pooling model's answer
        if answer.status in _PRESENT:
            return True
        raise self._bad_status(answer.status, answer.body, None)
