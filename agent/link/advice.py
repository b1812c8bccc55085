"""What an operator can do about a failed connection: one text for `check` and for the log of `run`.

A detail may end with its own advice, after "; check " or "; set ", if it depends on more than the
cause. Otherwise the cause decides.
"""

import re
from typing import Final, NamedTuple

from provider_agent.agent.link.backoff import (
    FATAL_HINTS,
    OPERATOR_HINTS,
    Disconnect,
    DisconnectCause,
)

_OWN_ADVICE: Final = re.compile(r"; (?=(check|set) )")

_QUOTED: Final = ("the coordinator ", "rejected by the coordinator")
"""How details begin that quote the coordinator, whose text is no advice of ours."""

_CHECK_NETWORK: Final = (
    "check [coordinator] url, that the coordinator is running, and that no firewall blocks it"
)
_CHECK_PROXY: Final = "; check [coordinator] proxy"
_CORRECT_FILE: Final = "correct that file, or the setting that names it"

_ADVICE: Final = {
    **FATAL_HINTS,
    **OPERATOR_HINTS,
    DisconnectCause.TOLD_TO_WAIT: "wait: the coordinator is busy or restarting; try again later",
    DisconnectCause.BROKEN_PEER: "check that [coordinator] url is the address of a coordinator, "
    "and report the violation to its operator",
    DisconnectCause.INTERNAL: "report this defect with the lines above",
}


class Explanation(NamedTuple):
    """One failed connection, for the operator.

    Attributes:
        problem: what went wrong.
        what_to_do: the advice; "" if there is nothing to do.
    """

    problem: str
    what_to_do: str


def explain_disconnect(
    disconnect: Disconnect, *, has_proxy: bool = False, worked_before: bool = False
) -> Explanation:
    """Return what is wrong, and what to do about it.

    Args:
        disconnect: how a link, or the attempt to open one, ended.
        has_proxy: whether `[coordinator] proxy` is set.
        worked_before: whether this process has been connected to the same address before, so that
            its settings are right.
    """
    detail, cause = disconnect.detail, disconnect.cause
    if detail.startswith("[coordinator]"):  # an `UnusableFile` of this section
        return Explanation(detail, _CORRECT_FILE)
    is_ours = cause not in FATAL_HINTS and not detail.startswith(_QUOTED)
    if is_ours and (own := _OWN_ADVICE.search(detail)):
        return Explanation(detail[: own.start()], detail[own.end() :])
    if worked_before and cause not in OPERATOR_HINTS:
        return Explanation(detail, "")
    advice = _ADVICE.get(cause) or _CHECK_NETWORK + (_CHECK_PROXY if has_proxy else "")
    return Explanation(detail, advice)
