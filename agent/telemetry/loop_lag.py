"""Measures how late the event loop calls what is due: the delay that every job has."""

import asyncio
from typing import Final

from provider_agent.agent.telemetry.job_totals import Distribution, new_distribution

INTERVAL_S: Final = 1.0
"""Seconds between two samples: few enough that an idle agent stays idle."""

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""From an idle loop to one that makes health probes time out."""


class LoopLag:
    """Samples of the event loop's lag.

    Attributes:
        samples: the lags in seconds since the start.
    """

    def __init__(self) -> None:
        self.samples: Distribution = new_distribution(BUCKETS_S)

    def __repr__(self) -> str:
        return f"<LoopLag samples={sum(self.samples.counts)}>"

    async def measure(self) -> None:
        """Take samples until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self.samples.add(max(loop.time() - due, 0.0))
