"""One health check of one backend: is it reachable, and which models does it serve?"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct, structs

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendTimeout,
    ServerLoad,
)
from provider_agent.adapters.responses.http_errors import describe, failed_health
from provider_agent.agent.backends.adapter_calls import call_adapter, call_within, validated
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode

log = EventLogger(__name__)

CHECK_TIMEOUT_S: Final = 60.0
"""The timeout of one whole health check. The adapters of this project have shorter timeouts, but a
third party's adapter may have none."""

ANSWER_S: Final = 5.0
"""The timeout of `answers`. The client of a failed job waits for it."""


class BackendState(Struct, frozen=True):
    """The result of a health check of one backend.

    Attributes:
        backend: the checked backend.
        health: whether the backend is reachable, or why not.
        models: the models to offer; empty while the backend is not healthy.
        withheld: models that the backend has and that are not offered, each with its reason.
        capacity: the most jobs that it executes at the same time; 0 while it is not healthy.
        load: the load that the server reports; None if it reports none, or was not asked yet.
        failing: the ids of the suspects that do not work; see `Suspects`.
    """

    backend: Backend
    health: BackendHealth
    models: tuple[BackendModel, ...] = ()
    withheld: tuple[BackendModel, ...] = ()
    capacity: int = 0
    load: ServerLoad | None = None
    failing: frozenset[str] = frozenset()


Suspects = Mapping[str, bool]
"""The models to test by generating a token, by id. An error shows that the model does not work, but
a timeout or `BACKEND_OVERLOADED` only if the value is True."""

NO_SUSPECTS: Final[Suspects] = MappingProxyType({})


async def check_backend(backend: Backend, suspects: Suspects = NO_SUSPECTS) -> BackendState:
    """Check one backend's health and list its models; raises only when cancelled.

    Args:
        backend: the backend to check.
        suspects: the models to test; those that do not work are not offered.
    """
    try:
        return await call_within(CHECK_TIMEOUT_S, backend, _check, backend, suspects)
    except BackendError as error:
        return BackendState(backend, failed_health(error, native=backend.native))
    except TimeoutError:
        text = f"no answer to its health check within {CHECK_TIMEOUT_S:.0f} s"
        return BackendState(backend, BackendHealth(False, None, text, timed_out=True))
    except Exception:
        # A defect of a third party's adapter must not stop the agent.
        log.exception("adapter failed", backend=backend.id)
        return BackendState(backend, BackendHealth(False, None, "the adapter failed; see the log"))


async def answers(backend: Backend) -> bool:
    """Whether a backend passes a health check within `ANSWER_S`; raises only when cancelled."""
    try:
        health = await call_within(ANSWER_S, backend, backend.health)
        return validated(health, BackendHealth).reachable
    except (BackendError, TimeoutError):
        return False
    except Exception:
        log.exception("adapter failed", backend=backend.id)
        return False


async def _check(backend: Backend, suspects: Suspects) -> BackendState:
    health = validated(await call_adapter(backend.health), BackendHealth)
    if not health.reachable:
        return BackendState(backend, health)
    models = validated(await call_adapter(backend.list_models), list[BackendModel])
    failing = await _find_failing(backend, models, suspects)
    models = [structs.replace(m, withheld=failing.get(m.model_id, m.withheld)) for m in models]
    offered = tuple(model for model in models if not model.withheld)
    if failing and not offered:
        health = BackendHealth(False, None, next(iter(failing.values())))
    return BackendState(
        backend,
        health,
        offered,
        tuple(model for model in models if model.withheld),
        validated(backend.max_concurrent, int) if health.reachable else 0,
        failing=frozenset(failing),
    )


async def _find_failing(
    backend: Backend, models: Iterable[BackendModel], suspects: Suspects
) -> dict[str, str]:
    """Return the suspects that do not work, as defined by `Suspects`, each with the reason.

    After a timeout, the server is assumed to hang: the timeout counts for the remaining suspects
    too, and they are not tried.
    """
    failing: dict[str, str] = {}
    hangs = False
    for model in models:
        if model.withheld or model.model_id not in suspects:
            continue
        try:
            if not hangs:
                await call_adapter(backend.generate_token, model)
        except BackendTimeout:
            hangs = True
        except BackendError as error:
            if error.code is ErrorCode.BACKEND_OVERLOADED and not suspects[model.model_id]:
                continue  # a busy server refuses the request: this shows no defect of the model
            failing[model.model_id] = f"it fails to generate a token: {describe(error)}"
        if hangs and suspects[model.model_id]:
            failing[model.model_id] = "it generates no token, although its health check passes"
    return failing
