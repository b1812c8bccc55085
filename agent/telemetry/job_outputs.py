"""Outputs of ended jobs that an operator may want: the ledger, for accounting, and traces."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.ledger import Ledger
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status import NO_LEDGER, LedgerStatus
from provider_agent.agent.telemetry.traces.settings import TraceSettings

if TYPE_CHECKING:
    from provider_agent.agent.telemetry.traces.exporter import TraceExporter


class JobOutputs:
    """The ledger and the traces of ended jobs.

    Args:
        ledger_path: the file of the ledger; None: no ledger.
        trace_settings: how to export traces; None: no traces.
        metrics: counts traces.
        fingerprint: identifies this agent in traces.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        ledger_path: Path | None,
        trace_settings: TraceSettings | None,
        metrics: Metrics,
        fingerprint: str,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = None if ledger_path is None else Ledger(ledger_path, monotonic=clock)
        self._traces: TraceExporter | None = None
        if trace_settings is not None:
            from provider_agent.agent.telemetry.traces.exporter import otlp_exporter

            self._traces = otlp_exporter(trace_settings, metrics.traces, fingerprint)

    def __repr__(self) -> str:
        return f"<JobOutputs ledger={self._ledger!r} traces={self._traces!r}>"

    @property
    def traced(self) -> bool:
        """Whether traces need the times of jobs."""
        return self._traces is not None

    def ledger_status(self) -> LedgerStatus:
        """Return whether the ledger is written."""
        return NO_LEDGER if self._ledger is None else self._ledger.status()

    def open(self) -> None:
        """Open the ledger and start the export of traces.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        if self._ledger is not None:
            self._ledger.open()
        if self._traces is not None:
            self._traces.start()

    async def run(self) -> None:
        """Write the ledger until cancelled; returns at once without a ledger."""
        if self._ledger is not None:
            await self._ledger.run()

    def add(self, record: JobRecord) -> None:
        """Add an ended job; never waits."""
        if self._ledger is not None:
            self._ledger.add(record)
        if self._traces is not None:
            self._traces.add(record)

    async def close(self) -> None:
        """Write what is left of the ledger, and wait a few seconds for the export of traces."""
        if self._ledger is not None:
            self._ledger.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.stop)
