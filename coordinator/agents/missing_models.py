"""Whether a model that no agent offers now may soon return. No I/O."""

from collections.abc import Callable, Iterable

MODEL_GRACE_S = 60.0
"""How long a missing model counts as temporarily unavailable (503, so that clients retry) instead
of unknown (404): its server may restart or its agent reconnect. The time runs from the model's last
job, or from the disconnection of an agent that offered it; for a model with neither, from the
coordinator's start, while agents are expected to send their offers."""

START_GRACE_S = 10.0
"""How long after the start of the coordinator requests wait for the first agent: after a restart,
agents return within seconds. Later, perhaps no agent was ever started."""

MAX_REMEMBERED_MODELS = 4096
"""For how many models the times of the last job and of the last disconnection are remembered; the
oldest times are dropped."""


class MissingModels:
    """Remembers when models received jobs, and when agents that offered them disconnected.

    In both questions, `awaits_offers` says whether agents are expected to send their offers, but
    none has done so: then any model may return.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._last_job_at: dict[str, float] = {}
        self._left_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<MissingModels used={len(self._last_job_at)} left={len(self._left_at)}>"

    @property
    def awaits_first_agent(self) -> bool:
        """Whether the coordinator has started so lately that agents may still return to it."""
        return self._clock() - self._started_at < START_GRACE_S

    def job_sent(self, model_id: str) -> None:
        """Record a job of a model."""
        self._record(self._last_job_at, model_id)

    def left(self, model_ids: Iterable[str]) -> None:
        """Record that an agent that offered the models has disconnected."""
        for model_id in model_ids:
            self._record(self._left_at, model_id)

    def left_lately(self, model_id: str, *, awaits_offers: bool) -> bool:
        """Whether an agent that offered the model has disconnected lately."""
        return self._is_recent(self._left_at, model_id, awaits_offers=awaits_offers)

    def used_lately(self, model_id: str, *, awaits_offers: bool) -> bool:
        """Whether the model has received a job lately."""
        return self._is_recent(self._last_job_at, model_id, awaits_offers=awaits_offers)

    def _is_recent(self, times: dict[str, float], model_id: str, *, awaits_offers: bool) -> bool:
        at = times.get(model_id, self._started_at if awaits_offers else None)
        return at is not None and self._clock() - at < MODEL_GRACE_S

    def _record(self, times: dict[str, float], model_id: str) -> None:
        times.pop(model_id, None)
        times[model_id] = self._clock()
        if len(times) > MAX_REMEMBERED_MODELS:
            del times[next(iter(times))]
