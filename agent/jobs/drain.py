"""How an agent stops: no new jobs, running ones end, and every end is seen acknowledged.

::

    running ──signal──▶ jobs end by themselves ──▶ ends acknowledged ──▶ stopped
                          │ drain_timeout_s             ▲
                          ▼                             │
                        the rest is cancelled, each with an end that says so

A second signal goes to the last row at once. All of it works without a link too: jobs go on, and
their ends wait for the next link as long as there is a session to resume.
"""

import asyncio
from typing import Final

from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

FLUSH_S: Final = 5.0
"""How long the ends of the last jobs may take to be acknowledged on a link that is up."""

FORCED_FLUSH_S: Final = 1.0
"""The same when a second signal came: one round trip on a bad link."""

STOP_S: Final = 5.0
"""How long jobs may take to stop when told to: to close a connection. An adapter that will not stop
must not keep the agent."""


async def drain(jobs: Jobs, outbox: Outbox, connected: asyncio.Event, limit_s: float) -> None:
    """Take no more jobs, let the running ones end, and see their ends acknowledged.

    Cancelling it leaves what still runs as it is.

    Args:
        jobs: what runs.
        outbox: where their ends go.
        connected: set while there is somebody to acknowledge them.
        limit_s: how long jobs and a lost link are waited for.
    """
    jobs.stop_accepting()
    until = asyncio.get_running_loop().time() + limit_s
    log.info("draining", in_flight=jobs.in_flight, at_most_s=limit_s)
    try:
        async with asyncio.timeout(limit_s):
            await jobs.wait_until_idle()
    except TimeoutError:
        await stop_jobs(jobs, "the agent stopped before the job was done")
    await _see_ends_acknowledged(outbox, connected, until, FLUSH_S)


async def stop_at_once(jobs: Jobs, outbox: Outbox) -> None:
    """Cut every job off, with an end that says so; give those ends one round trip."""
    jobs.stop_accepting()
    log.warning("stopping at once", in_flight=jobs.in_flight)
    await stop_jobs(jobs, "the agent was stopped at once")
    await _see_ends_acknowledged(outbox, None, 0.0, FORCED_FLUSH_S)


async def stop_jobs(jobs: Jobs, detail: str) -> None:
    """Stop every job and see it end."""
    jobs.stop_all(StopReason.DRAINING, detail)
    try:
        async with asyncio.timeout(STOP_S):
            await jobs.wait_until_idle()
    except TimeoutError:
        fields = {"in_flight": jobs.in_flight}
        log.error("an adapter does not stop its jobs", **fields)


async def _see_ends_acknowledged(
    outbox: Outbox, connected: asyncio.Event | None, until: float, patience_s: float
) -> None:
    """Wait `patience_s` for acknowledgements; without a link, until it is back, or `until`."""
    now = asyncio.get_running_loop().time
    while True:
        try:
            async with asyncio.timeout(patience_s):
                await outbox.wait_until_acknowledged()
                return
        except TimeoutError:
            if connected is None or connected.is_set() or now() >= until:
                fields = {"jobs": len(outbox.streams)}
                log.warning("ends of jobs were not acknowledged in time", **fields)
                return
