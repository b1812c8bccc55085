"""Waits until the operator has entered the code, or until it has expired."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from provider_agent.agent.cli.setup.pairing_client import PairingClient
from provider_agent.agent.cli.setup.pairing_messages import (
    Activation,
    DetectedBackend,
    Expired,
    PairCode,
    PairingFailed,
    Pending,
)

POLL_INTERVAL_S: Final = 0.8
"""The time between a response and the next request, as the Rust agent has it."""

MAX_SILENCE_S: Final = 60.0
"""How long requests may fail one after the other. A server restarts in less time."""

_MAX_PAUSE_S: Final = 30.0
"""The longest pause that a server can ask for."""


class WaitingClock(Struct, frozen=True):
    """The time of the wait.

    Attributes:
        now: monotonic time in seconds.
        sleep: waits for a number of seconds.
    """

    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


async def wait_for_activation(
    client: PairingClient,
    code: PairCode,
    backends: Sequence[DetectedBackend],
    clock: WaitingClock,
    show: Callable[[float, str], None],
) -> Activation | None:
    """Poll until the code is entered; return None if it has expired.

    Cancelling this coroutine stops it at once.

    Args:
        client: the requests.
        code: the code.
        backends: the servers of this machine, for the page.
        clock: the time.
        show: called after each request with the seconds that the code is still valid, and with why
            the request has failed, or "".

    Raises:
        PairingFailed: a request was refused, or all of them failed for `MAX_SILENCE_S`.
    """
    answered_at = clock.now()
    expires_at = answered_at + code.valid_s
    while True:
        pause_s, problem = POLL_INTERVAL_S, ""
        try:
            result = await client.poll(code, backends)
        except PairingFailed as failed:
            if not failed.is_temporary or clock.now() - answered_at >= MAX_SILENCE_S:
                raise
            pause_s = min(max(failed.retry_after_s, pause_s), _MAX_PAUSE_S)
            problem = str(failed)
        else:
            if not isinstance(result, Pending):
                return None if isinstance(result, Expired) else result
            answered_at = clock.now()
        left_s = expires_at - clock.now()
        if left_s <= 0:
            return None
        show(left_s, problem)
        await clock.sleep(min(pause_s, left_s))
