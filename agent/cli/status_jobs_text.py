"""The jobs of the running agent as text for a terminal."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.table import Column, Table

from provider_agent.agent.cli.terminal import counted, dollar_text, visible
from provider_agent.agent.telemetry.job_status import (
    EndedJobStatus,
    MinuteStatus,
    RunningJobStatus,
)
from provider_agent.agent.telemetry.status import StatusSnapshot

_SHOWN: Final = 8
"""The most running jobs, and the most ended ones; JSON has more."""

_KB: Final = 1000


def job_parts(state: StatusSnapshot) -> Iterator[Table | str]:
    """Yield the running jobs and the last ones."""
    names = _backend_names(state)
    if running := state.running[:_SHOWN]:
        yield _running(running, names)
        if (more := state.in_flight - len(running)) > 0:
            yield f"{more} more running: see --json"
    if state.last_jobs:
        yield _ended(state.last_jobs[:_SHOWN], names)


def hour_text(minutes: Sequence[MinuteStatus]) -> str:
    """Return the sums of the last hour."""
    jobs = sum(minute.jobs for minute in minutes)
    refused = sum(minute.refused for minute in minutes)
    if not jobs and not refused:
        return "no job ended"
    return (
        f"{counted(jobs, 'job')}, {sum(minute.failed for minute in minutes)} failed, "
        f"{refused} refused, "
        f"{sum(minute.output_tokens for minute in minutes)} output tokens, "
        f"{dollar_text(sum(minute.earned for minute in minutes))}"
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(seconds: float | None) -> str:
    """Return an age; None means never."""
    return "never" if seconds is None else f"{duration(seconds)} ago"


def _backend_names(state: StatusSnapshot) -> dict[str, str]:
    """Return the short name of each backend that is the only one of its kind, by its id."""
    kinds = Counter(backend.kind for backend in state.backends)
    return {backend.id: backend.kind for backend in state.backends if kinds[backend.kind] == 1}


def _running(jobs: Sequence[RunningJobStatus], names: Mapping[str, str]) -> Table:
    table = Table(
        Column("running job", overflow="fold"),
        Column("backend", overflow="fold"),
        "since",
        Column("first byte", justify="right"),
        Column("speed", justify="right"),
    )
    for job in jobs:
        first_byte = "waiting" if job.first_byte_ms is None else f"{job.first_byte_ms:.0f} ms"
        table.add_row(
            visible(job.model_id),
            visible(names.get(job.backend_id, job.backend_id)),
            duration(job.age_s),
            first_byte,
            _speed(job),
        )
    return table


def _speed(job: RunningJobStatus) -> str:
    if job.tokens_per_second is not None:
        return f"≈ {job.tokens_per_second:.1f} tokens/s"
    if job.bytes_per_second is not None:
        return f"{job.bytes_per_second / _KB:.1f} kB/s"
    return "–"


def _ended(jobs: Sequence[EndedJobStatus], names: Mapping[str, str]) -> Table:
    table = Table(
        Column("ended job", overflow="fold"),
        Column("backend", overflow="fold"),
        Column("outcome", overflow="fold"),
        Column("tokens", justify="right", no_wrap=True),
        Column("first byte", justify="right"),
        Column("took", justify="right", no_wrap=True),
        Column("earned", justify="right", no_wrap=True),
        Column("ago", justify="right", no_wrap=True),
    )
    for job in jobs:
        counts = (job.input_tokens, job.output_tokens)
        tokens = "/".join("?" if count is None else str(count) for count in counts)
        table.add_row(
            visible(job.model_id),
            visible(names.get(job.backend_id, job.backend_id)),
            job.outcome,
            tokens,
            "–" if job.first_byte_ms is None else _milliseconds(job.first_byte_ms),
            _milliseconds(job.duration_ms),
            "–" if job.earned is None else dollar_text(job.earned),
            duration(job.age_s),
        )
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"
