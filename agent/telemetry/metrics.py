"""The agent's counters since its start; `metrics_page` shows them to Prometheus.

A job adds its totals once, when it ends; chunks are not counted one by one. Label values come from
closed sets, so that no peer can increase the number of series.
"""

import time
from collections import Counter
from typing import Final

from provider_agent.agent.telemetry.job_totals import JobTotals
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import WireFormat

OK: Final = "ok"
"""The label `code` of a job that ended with a `JobResult`."""

NO_BACKEND: Final = "none"
"""The label `kind` of a job that reached no backend."""

OTHER: Final = "other"
"""Replaces a label value that is not one of the known values."""

_FORMATS: Final = frozenset(WireFormat)


class Metrics:
    """The agent's counters.

    Attributes:
        jobs: the totals of ended jobs, by code, format and kind.
        reconnects: attempts to reconnect to the coordinator, by cause.
        notices: notices from the coordinator, by severity.
        resumed_jobs: jobs that continued on a new link.
    """

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str, str], JobTotals] = {}
        self.reconnects: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.resumed_jobs = 0

    def __repr__(self) -> str:
        return f"<Metrics jobs={sum(totals.jobs for totals in self.jobs.values())}>"

    def job_ended(
        self,
        *,
        code: ErrorCode | None,
        wire_format: str,
        kind: str | None,
        relayed_bytes: int,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        first_byte_s: float | None = None,
        attempts: int = 1,
    ) -> None:
        """Count one ended job.

        Args:
            code: the error code; None for a success.
            wire_format: the job's format; an unknown one counts as "other".
            kind: kind of the backend that ran the job; None if it reached no backend.
            relayed_bytes: size of the response.
            input_tokens: the count that the server reported; None if unknown, then not counted.
            output_tokens: the count that the server reported; None if unknown, then not counted.
            first_byte_s: seconds from the job's arrival to the first byte; None without one.
            attempts: number of attempts at backends.
        """
        format_label = wire_format if wire_format in _FORMATS else OTHER
        kind_label = kind or NO_BACKEND
        key = (OK if code is None else code.value, format_label, kind_label)
        totals = self.jobs.get(key)
        if totals is None:
            totals = self.jobs[key] = JobTotals(time.time())
        totals.jobs += 1
        totals.relayed_bytes += relayed_bytes
        if attempts > 1:
            totals.failovers += attempts - 1
        if input_tokens is not None:
            totals.input_tokens = (totals.input_tokens or 0) + input_tokens
        if output_tokens is not None:
            totals.output_tokens = (totals.output_tokens or 0) + output_tokens
        if first_byte_s is not None:
            totals.add_first_byte(first_byte_s)

    def reconnecting(self, cause: str) -> None:
        """Count one attempt to reconnect; `cause` comes from a closed set."""
        self.reconnects[cause] += 1

    def notice_received(self, severity: str) -> None:
        """Count one notice of the coordinator; `severity` comes from a closed set."""
        self.notices[severity] += 1

    def resumed(self, jobs: int) -> None:
        """Count jobs that continue on a new link."""
        self.resumed_jobs += jobs
