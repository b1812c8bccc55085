"""What the coordinator itself has seen of each agent's jobs: refusals, failures and speed.

No I/O; the clock is an argument. Agents profit from jobs, so what they report about themselves
counts less than what the coordinator measures.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from msgspec import Struct

from provider_agent.coordinator.agents.decaying_counts import DecayingCounts
from provider_agent.coordinator.agents.model_report import REFERENCE_OUTPUT_TOKENS
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.frames import JobEnd, JobError

REFUSAL_S: Final = 1.0
"""How long routing avoids an agent that refused a job, unless the agent names a time. About the
duration of a short job: after it, the agent may have room again."""

MIN_REFUSAL_S: Final = 0.1
"""The shortest time after the first refusal, so that a request is not sent again without a pause.
Each further refusal doubles it, up to `REFUSAL_S`: otherwise one agent would soon refuse a waiting
request as often as it may (`MAX_REFUSALS` in `coordinator.http.job_attempts`)."""

MAX_REFUSAL_S: Final = 30.0
"""The longest time that an agent's `retry_after_ms` is honored: its heartbeats and offers report a
longer outage."""

FAILURE_DECAY_S: Final = 60.0
"""After this time, a failure counts 1/e. An agent without jobs must get another trial soon."""

RECENT_S: Final = 600.0
"""After this time, a job counts 1/e. Longer than a minute: if the counts decayed between two jobs
of an idle fleet, the agent that claims the highest speed would receive every job. Shorter than a
day: otherwise an agent that was disconnected for a day would receive every job for a long time."""

MIN_MEASURED_TOKENS: Final = 200.0
"""A measured speed counts from this many output tokens on; before, the reported one applies."""

MAX_ENTRIES: Final = 16_384
"""The most pairs of agent and model; beyond it, the one whose last job is the oldest is dropped."""

_REFUSED: Final = frozenset(
    {
        ErrorCode.OUT_OF_CAPACITY,
        ErrorCode.BACKEND_OVERLOADED,
        ErrorCode.MODEL_NOT_LOADED,
        ErrorCode.DRAINING,
    }
)
"""Codes after which the agent receives no job for the model for a moment."""

_Key = tuple[bytes, str]
"""Public key and model."""


class Seen(Struct, frozen=True, gc=False):
    """What the coordinator has seen of an agent's jobs for one model; the default is nothing.

    Attributes:
        refuses: whether the agent refused a job a moment ago.
        failures: how many jobs failed lately by the agent's fault.
        job_s: the measured time of the reference job; None if too little was measured.
    """

    refuses: bool = False
    failures: float = 0.0
    job_s: float | None = None


_NOTHING: Final = Seen()


class History(Protocol):
    """What routing knows about the past jobs of an agent."""

    def recent_jobs(self, public_key: bytes) -> float:
        """Return how many jobs the agent received lately."""
        ...

    def seen(self, public_key: bytes, model_id: str) -> Seen:
        """Return what was seen of the agent's jobs for a model."""
        ...


class _Record(Struct):
    """The past jobs of one agent and model; the counts are those at the time `at`.

    `refusals` counts those since the last job that ran.
    """

    at: float
    failures: float = 0.0
    seconds: float = 0.0
    tokens: float = 0.0
    refusals: int = 0
    refused_until: float = -math.inf


class JobHistory:
    """Implements `History`; outlives connections.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent = DecayingCounts[bytes](clock, RECENT_S)
        self._records: OrderedDict[_Key, _Record] = OrderedDict()

    def __repr__(self) -> str:
        return f"<JobHistory entries={len(self._records)} {self._recent!r}>"

    def job_sent(self, public_key: bytes) -> None:
        """Count a job that the agent receives now."""
        self._recent.add(public_key)

    def job_ended(self, public_key: bytes, model_id: str, end: JobEnd, duration_s: float) -> None:
        """Record an end.

        Args:
            public_key: the agent's identity.
            model_id: the model that ran the job.
            end: how it ended.
            duration_s: seconds since the job was sent, by the coordinator's clock.
        """
        record = self._decayed((public_key, model_id))
        if not is_refusal(end):
            record.refusals = 0
        if isinstance(end, JobError):
            _add_error(record, end)
            return
        record.failures /= 2
        # Output has at least a byte per token: a higher count would claim an impossible speed.
        tokens = min(end.usage.output_tokens or 0, end.total_bytes)
        if tokens:
            record.tokens += tokens
            record.seconds += duration_s

    def forget_refusals(self, public_key: bytes, model_ids: Iterable[str]) -> None:
        """Let an agent receive jobs for models that it refused, because its offers are new."""
        for model_id in model_ids:
            if (record := self._records.get((public_key, model_id))) is not None:
                record.refused_until = -math.inf

    def next_retry_s(self, public_keys: list[bytes], model_id: str) -> float | None:
        """Return seconds until the first agent that refused a job may get another, or None."""
        now = self._clock()
        records = (self._records.get((key, model_id)) for key in public_keys)
        times = [record.refused_until - now for record in records if record is not None]
        return min((seconds for seconds in times if seconds > 0), default=None)

    def recent_jobs(self, public_key: bytes) -> float:
        """Return how many jobs the agent received lately."""
        return self._recent.count(public_key)

    def seen(self, public_key: bytes, model_id: str) -> Seen:
        """Return what was seen of the agent's jobs for a model."""
        record = self._records.get((public_key, model_id))
        if record is None:
            return _NOTHING
        now = self._clock()
        age_s = now - record.at
        failures, job_s = record.failures, None
        if failures:
            failures *= math.exp(-age_s / FAILURE_DECAY_S)
        if record.tokens * math.exp(-age_s / RECENT_S) >= MIN_MEASURED_TOKENS:
            job_s = record.seconds / record.tokens * REFERENCE_OUTPUT_TOKENS
        return Seen(record.refused_until > now, failures, job_s)

    def _decayed(self, key: _Key) -> _Record:
        """Return the record of an agent and model, with its counts at the current time."""
        now = self._clock()
        record = self._records.setdefault(key, _Record(now))
        self._records.move_to_end(key)
        if len(self._records) > MAX_ENTRIES:
            self._records.popitem(last=False)
        age_s = now - record.at
        record.failures *= math.exp(-age_s / FAILURE_DECAY_S)
        record.seconds *= math.exp(-age_s / RECENT_S)
        record.tokens *= math.exp(-age_s / RECENT_S)
        record.at = now
        return record


def is_refusal(end: JobEnd) -> bool:
    """Whether the agent refused the job. Such an end frees no capacity."""
    return isinstance(end, JobError) and end.code in _REFUSED


def _add_error(record: _Record, error: JobError) -> None:
    entry = entry_for(error.code)
    if is_refusal(error):
        seconds = REFUSAL_S if error.retry_after_ms is None else error.retry_after_ms / 1000
        shortest = min(REFUSAL_S, MIN_REFUSAL_S * 2 ** min(record.refusals, 10))
        record.refusals += 1
        record.refused_until = record.at + max(shortest, min(seconds, MAX_REFUSAL_S))
    elif entry.fault is Fault.PROVIDER and error.code != ErrorCode.DEADLINE_EXCEEDED:
        record.failures += 1.0
