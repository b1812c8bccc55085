"""What an agent's heartbeat reports about each of its models."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.field_values import valid_share, valid_speed
from provider_agent.protocol.frames import BackendLoad, Heartbeat, ModelLoad
from provider_agent.protocol.limits import MAX_MODELS

REFERENCE_PROMPT_TOKENS: Final = 1000
REFERENCE_OUTPUT_TOKENS: Final = 200
"""The tokens of the reference job, by whose duration agents are compared: about one chat turn."""

DOWN: Final = "down"
_COLD: Final = frozenset({"cold", "loading"})


class ModelReport(Struct, frozen=True):
    """What an agent reports about one model, combined over its backends.

    The defaults apply to a model that the heartbeat does not mention.

    Attributes:
        other_requests: requests of the servers' other clients, running or waiting.
        cache_used: used share (0…1) of the fullest key-value cache; 0 if not reported.
        is_cold: whether a server has to load the model first.
        is_down: whether no server can run it now.
        job_s: seconds that the reference job takes; None if a speed is not reported.
    """

    other_requests: int = 0
    cache_used: float = 0.0
    is_cold: bool = False
    is_down: bool = False
    job_s: float | None = None


NO_REPORT: Final = ModelReport()

LoadOnBackend = tuple[BackendLoad, ModelLoad]
"""The load of a backend, and of one model on it."""


MAX_MODELS_READ: Final = MAX_MODELS
"""The most models of one heartbeat that are kept: as many as an agent can offer. The protocol
allows 256 for each of 1,024 backends, which would take megabytes for each agent."""


def without_excess_models(heartbeat: Heartbeat) -> Heartbeat:
    """Return the heartbeat with `MAX_MODELS_READ` models at most.

    The backend whose models would exceed the limit, and every later backend, loses all of its
    models.
    """
    free = MAX_MODELS_READ
    backends = []
    for backend in heartbeat.backends:
        free -= len(backend.models)
        backends.append(replace(backend, models=[]) if free < 0 else backend)
    return heartbeat if free >= 0 else replace(heartbeat, backends=backends)


def loads_by_model(heartbeat: Heartbeat) -> dict[str, list[LoadOnBackend]]:
    """Return the load of each model that the heartbeat mentions, on each of its backends."""
    loads: dict[str, list[LoadOnBackend]] = {}
    for backend in heartbeat.backends:
        for model in backend.models:
            loads.setdefault(model.model_id, []).append((backend, model))
    return loads


def model_report(loads: Iterable[LoadOnBackend]) -> ModelReport:
    """Combine the backends that can run a model: a job may run on any of them.

    Their requests are added up; of the other values, the worst one applies.
    """
    usable = [(backend, model) for backend, model in loads if _is_usable(backend, model)]
    if not usable:
        return ModelReport(is_down=True)
    job_times = [_job_s(model) for _, model in usable]
    known = [seconds for seconds in job_times if seconds is not None]
    return ModelReport(
        other_requests=sum(_other_requests(backend, model) for backend, model in usable),
        cache_used=max(_cache_used(backend, model) for backend, model in usable),
        is_cold=any(model.state in _COLD for _, model in usable),
        job_s=max(known) if len(known) == len(job_times) else None,
    )


def _is_usable(backend: BackendLoad, model: ModelLoad) -> bool:
    return backend.healthy and model.state != DOWN


def _other_requests(backend: BackendLoad, model: ModelLoad) -> int:
    """Return the requests that are not this agent's; 0 if the server does not report requests."""
    source = backend if model.running is None else model
    return max(0, (source.running or 0) + (source.waiting or 0) - source.in_flight)


def _cache_used(backend: BackendLoad, model: ModelLoad) -> float:
    used = valid_share(model.cache_used)
    return (valid_share(backend.cache_used) if used is None else used) or 0.0


def _job_s(model: ModelLoad) -> float | None:
    """Return the time of the reference job; None unless both speeds are reported and plausible."""
    prefill = valid_speed(model.prefill_tokens_per_second)
    decode = valid_speed(model.decode_tokens_per_second)
    if prefill is None or decode is None:
        return None
    return REFERENCE_PROMPT_TOKENS / prefill + REFERENCE_OUTPUT_TOKENS / decode
