"""Chooses which of the coordinator's addresses is dialed next. No I/O."""

from collections.abc import Sequence
from typing import Final

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry

MAX_UNHEALTHY_SESSIONS: Final = 2
"""After so many unhealthy sessions in a row at one address, the next address is tried. After the
first, the same address is tried again: the network may have failed, and only that coordinator can
resume the jobs."""


class Coordinators:
    """The coordinator's addresses, in the operator's order, without those that failed permanently.

    After a session, the same address is tried again first, because only the coordinator there can
    resume the session. The next address is tried after a failed attempt, after a second session in
    a row that was not healthy, or if the wait would be longer than `CAP_S`. A wait that one
    coordinator asked for does not apply to another. An address with a fatal failure is removed.

    The next address is the one that may be dialed soonest; if several may, the first of them in
    cyclic order.

    Args:
        urls: the addresses, at least one; the first is dialed first.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._not_before = dict.fromkeys(urls, float("-inf"))
        """The earliest time to dial each usable address, in the order of the configuration."""
        self._unhealthy_sessions = 0
        """Sessions in a row at the current address that ended before they were healthy."""
        self.current = urls[0]
        """The address to dial; after `choose_next` returned None, the last one that was left."""

    def __repr__(self) -> str:
        return f"<Coordinators {self.current} of {len(self._not_before)}>"

    def choose_next(
        self, decision: Retry | Fatal, now: float, *, welcomed: bool, healthy: bool
    ) -> float | None:
        """Choose the next address after a link, or an attempt to open one, has ended.

        Args:
            decision: the result of `next_attempt` for the ended link.
            now: monotonic seconds.
            welcomed: whether the link had received `Welcome`.
            healthy: whether its session was healthy, as `is_healthy` defines it.

        Returns:
            Seconds to wait before dialing `current`; if None, no address is left.
        """
        ended = self.current
        candidates = self._others(ended)
        if isinstance(decision, Fatal):
            del self._not_before[ended]
            if not candidates:
                return None
        else:
            self._not_before[ended] = now + decision.after_s
            if self._may_resume(decision, welcomed=welcomed, healthy=healthy):
                return decision.after_s
            candidates.append(ended)
        dial_at = {url: self._not_before[url] for url in candidates}
        for url in candidates:
            if url != ended:
                dial_at[url] = max(dial_at[url], now + decision.elsewhere_s)
        self.current = min(candidates, key=dial_at.__getitem__)  # the first in order, if equal
        self._unhealthy_sessions = 0
        return dial_at[self.current] - now

    def _may_resume(self, decision: Retry, *, welcomed: bool, healthy: bool) -> bool:
        """Whether the session of the ended link should be resumed at its address."""
        if not welcomed:
            return False
        self._unhealthy_sessions = 0 if healthy else self._unhealthy_sessions + 1
        # A coordinator that admits the agent and drops it again must not keep it from the other
        # addresses. After a wait of more than `CAP_S`, the session has usually expired.
        return self._unhealthy_sessions < MAX_UNHEALTHY_SESSIONS and decision.after_s <= CAP_S

    def _others(self, url: str) -> list[str]:
        """Return the other addresses in cyclic order, beginning after `url`."""
        urls = list(self._not_before)
        index = urls.index(url)
        return urls[index + 1 :] + urls[:index]
