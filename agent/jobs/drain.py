"""The drain: no new jobs, running jobs finish, and every end is acknowledged.

::

    running ──signal──▶ running jobs finish ──▶ ends acknowledged ──▶ stopped
                          │                        │               ▲
                          └────────────────────────┤               │
                                                   ▼ drain_timeout_s
                        what is left ends with `draining` ──▶ ends acknowledged, or FLUSH_S

A second signal cancels the running jobs at once. A drain also works while the link is lost or slow:
jobs continue, and responses and ends are sent over this link or the next one, if the session can
still be resumed.
"""

import asyncio
import contextlib
import logging
from typing import Final

from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

FLUSH_S: Final = 5.0
"""Seconds that a drain waits for the acknowledgement of the ends that its deadline caused."""

FORCED_FLUSH_S: Final = 1.0
"""Seconds that an immediate stop waits for acknowledgements: one round trip on a slow network."""


async def drain(jobs: Jobs, outbox: Outbox, limit_s: float) -> bool:
    """Accept no more jobs, let the running ones finish, and wait until their ends are acknowledged.

    Cancelling this coroutine does not stop the running jobs.

    Args:
        jobs: the running jobs.
        outbox: holds the jobs' responses and ends until they are acknowledged.
        limit_s: seconds until the remaining jobs end with `draining`.

    Returns:
        Whether every job finished in time, and the coordinator has acknowledged its whole response
        and its end.
    """
    jobs.set_accepting(accepting=False)
    lost_before = outbox.lost_jobs
    stopped = cut = 0
    log.info("draining", in_flight=jobs.in_flight, at_most_s=limit_s)
    try:
        async with asyncio.timeout(limit_s):
            await jobs.wait_until_idle()
            await outbox.wait_until_acknowledged()
    except TimeoutError:
        detail = "the agent stopped before the job ended"
        stopped = jobs.in_flight
        await stop_jobs(jobs, detail)
        cut = jobs.drop_unsent_responses(detail)
        await _wait_for_acknowledgements(outbox, FLUSH_S)
    return _report_undelivered(logging.ERROR, outbox, lost_before, stopped, cut)


async def stop_immediately(jobs: Jobs, outbox: Outbox, lost_before: int) -> None:
    """Cancel every job, and wait `FORCED_FLUSH_S` for the acknowledgement of their ends.

    Args:
        jobs: the running jobs.
        outbox: holds the jobs' responses and ends until they are acknowledged.
        lost_before: the outbox's `lost_jobs` at the start of the drain that this call cuts short.
    """
    jobs.set_accepting(accepting=False)
    log.warning("stopping immediately", in_flight=jobs.in_flight)
    detail = "the agent stopped without waiting for its jobs"
    stopped = jobs.in_flight
    await stop_jobs(jobs, detail)
    cut = jobs.drop_unsent_responses(detail)
    await _wait_for_acknowledgements(outbox, FORCED_FLUSH_S)
    _report_undelivered(logging.WARNING, outbox, lost_before, stopped, cut)


async def stop_jobs(jobs: Jobs, detail: str) -> None:
    """Cancel every job, and wait until all have their ends, which takes at most `CANCEL_S`."""
    jobs.stop_all(StopReason.DRAINING, detail)
    await jobs.wait_until_idle()


def _report_undelivered(
    level: int, outbox: Outbox, lost_before: int, stopped: int, cut: int
) -> bool:
    """Log what was not delivered; return whether everything was."""
    lost, unacknowledged = outbox.lost_jobs - lost_before, len(outbox.streams)
    if not (stopped or cut or lost or unacknowledged):
        return True
    counts = {"stopped": stopped, "cut": cut, "lost": lost, "unacknowledged": unacknowledged}
    log.log(level, "jobs not delivered", **counts)
    return False


async def _wait_for_acknowledgements(outbox: Outbox, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await outbox.wait_until_acknowledged()
