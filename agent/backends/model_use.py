"""Measures how one backend runs its models: the jobs in flight, and the speed of finished ones."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

WINDOW_S: Final = 300.0
"""Speeds cover jobs of the last five minutes: enough jobs for an average on a slow server, and few
enough that a changed load shows within minutes."""

MAX_TIMINGS: Final = 64
"""The most jobs of one model that a speed covers."""

MAX_MODELS: Final = 256
"""The most models that are remembered, as many as one heartbeat reports. Of more models, the least
recently used one without running jobs is dropped."""

MIN_PREFILL_TOKENS: Final = 64
"""A shorter prompt does not measure the prefill: the fixed costs of a request dominate."""

MIN_TIME_S: Final = 0.001
"""Seconds. A shorter time measures the event loop, not the server."""


class JobTiming(Struct, frozen=True, gc=False):
    """How long one backend took for one streamed response.

    Attributes:
        input_tokens: the count that the server reported; None if unknown.
        cached_tokens: input tokens that the server read from a cache; None if unknown.
        output_tokens: the count that the server reported; None if unknown.
        first_byte_s: seconds from the request to the first byte of output.
        duration_s: seconds from the request to the end of the response.
    """

    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    first_byte_s: float
    duration_s: float


class ModelUsage(Struct, frozen=True):
    """The use of one model at one moment.

    Attributes:
        in_flight: jobs that run now.
        prefill_tokens_per_second: uncached input tokens per second until the first byte of output;
            None: not measured. The time includes the server's queue.
        decode_tokens_per_second: output tokens except the first, per second after the first byte of
            output; None: not measured. The time includes pauses for a slow client.
    """

    in_flight: int
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class _Model:
    """The jobs and timings of one model; a timing is stored with the time when it was added."""

    __slots__ = ("in_flight", "timings", "used_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.used_at = 0.0
        self.timings: deque[tuple[float, JobTiming]] = deque(maxlen=MAX_TIMINGS)


class ModelUse:
    """The recent use of each model of one backend.

    A speed is the sum of the tokens of the jobs divided by the sum of their times: the speed of one
    job, averaged over jobs and weighted by their time. Time in the server's queue and pauses for a
    slow client make it lower than the server's own speed. Cached tokens that the server does not
    report make the prefill speed higher.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models: OrderedDict[str, _Model] = OrderedDict()
        """The least recently used first."""

    def __repr__(self) -> str:
        return f"<ModelUse models={len(self._models)}>"

    def started(self, model_id: str) -> None:
        """Count a job that starts."""
        self._mark_used(model_id).in_flight += 1

    def ended(self, model_id: str) -> None:
        """Count a job that has ended, for whatever reason; it was counted by `started`."""
        self._mark_used(model_id).in_flight -= 1
        self._drop_unused()

    def measured(self, model_id: str, timing: JobTiming) -> None:
        """Add a completed job to the speeds."""
        self._mark_used(model_id).timings.append((self._clock(), timing))

    def usage(self) -> dict[str, ModelUsage]:
        """Return the use of each model, the most recently used first.

        A model that has no running job and was not used within `WINDOW_S` is left out.
        """
        oldest = self._clock() - WINDOW_S
        return {
            model_id: ModelUsage(
                model.in_flight,
                *_speeds(timing for at, timing in model.timings if at > oldest),
            )
            for model_id, model in reversed(self._models.items())
            if model.in_flight or model.used_at > oldest
        }

    def _mark_used(self, model_id: str) -> _Model:
        """Mark a model as the most recently used; return its entry, created if it has none."""
        model = self._models.get(model_id)
        if model is None:
            model = self._models[model_id] = _Model()
        model.used_at = self._clock()
        self._models.move_to_end(model_id)
        return model

    def _drop_unused(self) -> None:
        if len(self._models) > MAX_MODELS:
            idle = (name for name, model in self._models.items() if not model.in_flight)
            name = next(idle, None)
            if name is not None:
                del self._models[name]


def _speeds(timings: Iterable[JobTiming]) -> tuple[float | None, float | None]:
    """Return the prefill and the decode speed in tokens per second; None without a measured job."""
    prefill_tokens = decode_tokens = 0
    prefill_s = decode_s = 0.0
    for timing in timings:
        if timing.input_tokens is not None:
            uncached = timing.input_tokens - (timing.cached_tokens or 0)
            if uncached >= MIN_PREFILL_TOKENS:
                prefill_tokens += uncached
                prefill_s += timing.first_byte_s
        if timing.output_tokens is not None and timing.output_tokens > 1:
            decode_tokens += timing.output_tokens - 1  # the first one ends the prefill
            decode_s += timing.duration_s - timing.first_byte_s
    return _rate(prefill_tokens, prefill_s), _rate(decode_tokens, decode_s)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens and seconds >= MIN_TIME_S else None
