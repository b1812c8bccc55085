"""Which of the coordinator's addresses is dialled next. Pure."""

from collections.abc import Sequence

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry


class Coordinators:
    """The addresses that are left, in the operator's order.

    A lost session is taken up where it was, so its address comes first again. After a failed
    attempt it is the next one's turn. What one coordinator asked for, or its refusal of a token,
    makes nobody wait for another; an address that is of no use at all is left out.

    Args:
        urls: at least one; the first is dialled first.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._not_before = dict.fromkeys(urls, float("-inf"))
        self.current = urls[0]
        """The address to dial, or the last one there was."""

    def __repr__(self) -> str:
        return f"<Coordinators {self.current} of {len(self._not_before)}>"

    def ended(self, decision: Retry | Fatal, now: float, *, welcomed: bool) -> float | None:
        """Choose the next address.

        Args:
            decision: what `backoff.after` said about the link that ended.
            now: of any monotonic clock.
            welcomed: whether that link had a session.

        Returns:
            Seconds to wait before dialling `current`; None: no address is left.
        """
        ended = self.current
        turns = self._after(ended)
        if isinstance(decision, Fatal):
            del self._not_before[ended]
            if not turns:
                return None
        else:
            self._not_before[ended] = now + decision.after_s
            # Later than this no coordinator keeps the session.
            if welcomed and decision.after_s <= CAP_S:
                return decision.after_s
            turns.append(ended)
        start = {url: self._not_before[url] for url in turns}
        for url in turns:
            if url != ended:
                start[url] = max(start[url], now + decision.elsewhere_s)
        self.current = min(turns, key=start.__getitem__)  # of several, the first in turn
        return start[self.current] - now

    def _after(self, url: str) -> list[str]:
        """The other addresses, beginning with the one behind `url`."""
        urls = list(self._not_before)
        place = urls.index(url)
        return urls[place + 1 :] + urls[:place]
