"""Builds the loads of the backends and of their models for a heartbeat."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from provider_agent.adapters.base import ModelServerLoad, ModelState, ServerLoad
from provider_agent.agent.backends.health_monitor import HealthMonitor
from provider_agent.agent.backends.model_use import ModelUsage
from provider_agent.protocol.field_values import (
    clamp_count,
    is_name,
    to_line,
    valid_count,
    valid_share,
    valid_speed,
)
from provider_agent.protocol.frames import BackendLoad, ModelLoad
from provider_agent.protocol.limits import KIB, MAX_MODEL_LOADS

MAX_MODELS_BYTES: Final = 256 * KIB
"""The approximate size limit of all `ModelLoad`s in one heartbeat, enough for thousands of models
with ids of usual length."""

MAX_BACKENDS: Final = 256
"""The most backends in one heartbeat: the heartbeat must fit in one message."""

_MODEL_BYTES: Final = 64
"""The largest size of a `ModelLoad` without its id."""

_NO_LOAD: Final = ServerLoad()
_NO_MODEL_LOAD: Final = ModelServerLoad()
_UNUSED: Final = ModelUsage(0)


def backend_loads(monitors: Iterable[HealthMonitor]) -> list[BackendLoad]:
    """Return the load of each backend, in order, up to the limits above."""
    free_bytes = MAX_MODELS_BYTES
    loads = []
    for monitor in islice(monitors, MAX_BACKENDS):
        models = []
        for model in _model_loads(monitor):
            free_bytes -= len(model.model_id.encode()) + _MODEL_BYTES
            if free_bytes < 0:
                break
            models.append(model)
        loads.append(_backend_load(monitor, models))
    return loads


def _backend_load(monitor: HealthMonitor, models: list[ModelLoad]) -> BackendLoad:
    load = monitor.state.load or _NO_LOAD
    return BackendLoad(
        backend_id=to_line(monitor.backend.id),
        healthy=monitor.state.health.reachable,
        in_flight=monitor.running,
        capacity=clamp_count(monitor.backend.max_concurrent),
        running=valid_count(load.running),
        waiting=valid_count(load.waiting),
        cache_used=valid_share(load.cache_used),
        models=models,
    )


def _model_loads(monitor: HealthMonitor) -> Iterator[ModelLoad]:
    """Yield the loads of the models that the backend offers, or offered before it went down.

    Only recently used models and models with a known state are included, in this order. The catalog
    of a passthrough has hundreds of models without a state: only its used ones are included.
    """
    offered = {model.model_id for model in monitor.state.models or monitor.last_models}
    usage = {name: use for name, use in monitor.model_use.usage().items() if name in offered}
    # While a backend is down, `state.models` is empty, and the state of all its models is known.
    reported = (monitor.state.load or _NO_LOAD).models if monitor.state.models else offered
    unused = sorted(offered & set(reported) - usage.keys()) if monitor.backend.native else []
    for name in [*usage, *unused][:MAX_MODEL_LOADS]:
        if is_name(name):
            yield _model_load(monitor, name, usage.get(name, _UNUSED))


def _model_load(monitor: HealthMonitor, model_id: str, usage: ModelUsage) -> ModelLoad:
    load = (monitor.state.load or _NO_LOAD).models.get(model_id, _NO_MODEL_LOAD)
    prefill = valid_speed(load.prefill_tokens_per_second)
    decode = valid_speed(load.decode_tokens_per_second)
    return ModelLoad(
        model_id=model_id,
        state=_state(monitor, model_id, load),
        in_flight=usage.in_flight,
        running=valid_count(load.running),
        waiting=valid_count(load.waiting),
        cache_used=valid_share(load.cache_used),
        # The server's measurement first: unlike the agent's, it does not include the time in the
        # server's queue, or the delay by a slow client.
        prefill_tokens_per_second=prefill or usage.prefill_tokens_per_second,
        decode_tokens_per_second=decode or usage.decode_tokens_per_second,
    )


def _state(monitor: HealthMonitor, model_id: str, load: ModelServerLoad) -> str:
    """Return what the agent has detected, else the state that the server reports, else ""."""
    if not monitor.state.health.reachable:
        return ModelState.LOADING if monitor.state.health.loading else ModelState.DOWN
    if monitor.admission.is_open(model_id):
        return ModelState.DOWN
    return load.state or ""
