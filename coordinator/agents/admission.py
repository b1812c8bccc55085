"""Which agents are admitted, and how fast enrollment codes can be guessed."""

import math
from collections.abc import Callable
from typing import Final

from provider_agent.coordinator.access import admits_agent
from provider_agent.coordinator.connections.failed_attempts import FailedAttempts
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import Hello, Rejected

MAX_REMEMBERED_KEYS: Final = 4096
"""Public keys that are remembered as enrolled; those that have not connected for the longest time
are forgotten first."""

_NOT_ENROLLED: Final = Rejected(
    "not_enrolled", "This coordinator knows neither the agent's public key nor its enrollment code."
)

_NO_CODE: Final = Rejected(
    "not_enrolled",
    "This coordinator does not know the agent's public key, and the agent sent no enrollment code.",
)


class Admission:
    """Admits agents by public key or enrollment code; a code admits its key until the process ends.

    After several wrong codes from one address, codes from there are checked only every few seconds.
    That does not affect agents that have been admitted before: they have proven their public key.

    Args:
        settings: the coordinator's settings.
        clock: monotonic, in seconds.
    """

    def __init__(self, settings: CoordinatorSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._failures = FailedAttempts(clock)
        self._enrolled: dict[bytes, None] = {}

    def __repr__(self) -> str:
        return f"<Admission enrolled={len(self._enrolled)} {self._failures!r}>"

    def refusal(self, hello: Hello, address: str) -> Rejected | None:
        """Return why an agent whose signature is verified is rejected, or None.

        Args:
            hello: the agent's `Hello`.
            address: the agent's network address.
        """
        settings, key = self._settings, hello.public_key
        wait_s = self._failures.wait_s(address)
        # A listed key is admitted whatever the code.
        is_known = key in self._enrolled or key in (settings.agent_keys or ())
        if wait_s > 0 and hello.enrollment_code and not is_known:
            return Rejected(
                "too_many_failures",
                "There were too many wrong enrollment codes from this address.",
                math.ceil(wait_s * 1000),
            )
        # Agents of the dialect usepod send their code only until they are admitted once.
        comes_back = key in self._enrolled and not hello.enrollment_code
        if comes_back or admits_agent(hello, settings.enrollment_codes, settings.agent_keys):
            self._enrolled.pop(key, None)
            self._enrolled[key] = None
            if len(self._enrolled) > MAX_REMEMBERED_KEYS:
                del self._enrolled[next(iter(self._enrolled))]
            return None
        if not hello.enrollment_code:
            return _NO_CODE
        self._failures.add(address)
        return _NOT_ENROLLED
