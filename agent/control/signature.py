"""Signs commands to the running agent with its own key, and checks the signatures.

A user who can read the key counts as the operator, so no other secret is needed. The signature
covers the method, the path, the port of the status server, the time and the body. Each is accepted
once, within `VALID_S` seconds.
"""

import time
from collections.abc import Callable
from typing import Final

from provider_agent.protocol.ed25519 import is_valid_signature

PATH: Final = "/control"
"""The path of commands."""

VALID_S: Final = 30.0
"""How far the time of a command may be from the agent's: both clocks are of one machine."""

TIME_HEADER: Final = "Provider-Agent-Time"
"""POSIX time in nanoseconds, so that two equal commands have different signatures."""

SIGNATURE_HEADER: Final = "Provider-Agent-Signature"
"""The signature in hex."""

_NOT_SIGNED: Final = "the command is not signed with the agent's key"

_CONTEXT: Final = b"provider-agent local control v1"
"""Distinguishes these signatures from those for coordinators, which are made with the same key."""


def signed_message(path: str, port: int, time_ns: int, body: bytes) -> bytes:
    """Return the bytes that the signature of a POST covers."""
    head = f"POST\n{path}\n{port}\n{time_ns}\n".encode()
    return _CONTEXT + b"\n" + head + body


class SignatureCheck:
    """Accepts each signed message once.

    Args:
        public_key: the agent's public key, 32 bytes.
        wall_clock: POSIX time in seconds.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        public_key: bytes,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._public_key = public_key
        self._wall_clock = wall_clock
        self._clock = clock
        self._started_at = clock()
        self._started_ns = int(wall_clock() * 1e9)
        self._accepted: dict[bytes, int] = {}
        """The time of each accepted message that is still valid."""

    def problem(self, path: str, port: int, time_text: str, signature: str, body: bytes) -> str:
        """Return why a command is refused; "" accepts it."""
        try:
            time_ns, signed = int(time_text), bytes.fromhex(signature)
        except ValueError:
            return _NOT_SIGNED
        message = signed_message(path, port, time_ns, body)
        if not is_valid_signature(self._public_key, signed, message):
            return _NOT_SIGNED
        now_ns, valid_ns = int(self._wall_clock() * 1e9), int(VALID_S * 1e9)
        if abs(now_ns - time_ns) > valid_ns or self._may_be_from_before_start(time_ns):
            return "the command is too old, or the clocks differ; repeat it"
        self._accepted = {
            known: at for known, at in self._accepted.items() if at >= now_ns - valid_ns
        }
        if message in self._accepted:
            return "the command was received before"
        self._accepted[message] = time_ns
        return ""

    def _may_be_from_before_start(self, time_ns: int) -> bool:
        """Whether a valid message may have been accepted before a restart.

        After `VALID_S` none can be, and a clock that was set back must not refuse every command.
        """
        return time_ns < self._started_ns and self._clock() - self._started_at <= VALID_S
