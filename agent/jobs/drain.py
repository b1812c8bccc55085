"""The drain: no new jobs, running jobs finish, and every end is acknowledged.

::

    running ──signal──▶ running jobs finish ──▶ ends acknowledged ──▶ stopped
                          │ drain_timeout_s        ▲
                          ▼                        │
                        remaining jobs are cancelled, each with the end `draining`

A second signal cancels the running jobs at once. A drain also works while the link is lost: jobs
continue, and their ends are sent over the next link if the session can still be resumed.
"""

import asyncio
from typing import Final

from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

FLUSH_S: Final = 5.0
"""Seconds that a drain waits for the acknowledgement of the last ends while there is a link."""

FORCED_FLUSH_S: Final = 1.0
"""Seconds that an immediate stop waits for acknowledgements: one round trip on a slow network."""

STOP_S: Final = 5.0
"""Seconds that cancelled jobs may take to close their connections. An adapter that ignores its
cancellation must not keep the agent running."""


async def drain(jobs: Jobs, outbox: Outbox, connected: asyncio.Event, limit_s: float) -> None:
    """Accept no more jobs, let the running ones finish, and wait until their ends are acknowledged.

    Cancelling this coroutine does not stop the running jobs.

    Args:
        jobs: the running jobs.
        outbox: holds the jobs' ends until they are acknowledged.
        connected: set while there is a link.
        limit_s: seconds until the remaining jobs are cancelled, and until the drain stops waiting
            for a lost link.
    """
    jobs.stop_accepting()
    until = asyncio.get_running_loop().time() + limit_s
    log.info("draining", in_flight=jobs.in_flight, at_most_s=limit_s)
    try:
        async with asyncio.timeout(limit_s):
            await jobs.wait_until_idle()
    except TimeoutError:
        await stop_jobs(jobs, "the agent stopped before the job ended")
    await _wait_for_acknowledgements(outbox, connected, until, FLUSH_S)


async def stop_immediately(jobs: Jobs, outbox: Outbox) -> None:
    """Cancel every job, and wait `FORCED_FLUSH_S` for the acknowledgement of their ends."""
    jobs.stop_accepting()
    log.warning("stopping immediately", in_flight=jobs.in_flight)
    await stop_jobs(jobs, "the agent stopped without waiting for its jobs")
    await _wait_for_acknowledgements(outbox, None, 0.0, FORCED_FLUSH_S)


async def stop_jobs(jobs: Jobs, detail: str) -> None:
    """Cancel every job, and wait until all have ended, or until `STOP_S` have passed."""
    jobs.stop_all(StopReason.DRAINING, detail)
    try:
        async with asyncio.timeout(STOP_S):
            await jobs.wait_until_idle()
    except TimeoutError:
        log.error("adapter ignored cancellation", in_flight=jobs.in_flight)


async def _wait_for_acknowledgements(
    outbox: Outbox, connected: asyncio.Event | None, until: float, wait_s: float
) -> None:
    """Wait until every end is acknowledged, or the wait times out.

    Args:
        outbox: holds the ends.
        connected: set while there is a link; if None, a lost link is not waited for.
        until: loop time at which the wait for a lost link stops.
        wait_s: seconds of one wait, repeated while the link is lost.
    """
    now = asyncio.get_running_loop().time
    while True:
        try:
            async with asyncio.timeout(wait_s):
                await outbox.wait_until_acknowledged()
                return
        except TimeoutError:
            if connected is None or connected.is_set() or now() >= until:
                log.warning("job ends not acknowledged in time", jobs=len(outbox.streams))
                return
