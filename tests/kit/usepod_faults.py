"""Faults of agents and coordinators of the Use Pod dialect, as changes of their messages."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from provider_agent.protocol.exceptions import ProtocolViolation

Message = dict[str, Any]
Change = Callable[[Message], Message | None]
"""Returns what is sent or received instead of a message; None: nothing."""


class Fault(Struct, frozen=True):
    """A fault that the implementation under test has.

    Attributes:
        case: the id of the conformance case that finds it.
        sends: changes what the implementation sends.
        receives: changes what it receives.
    """

    case: str
    sends: Change = lambda message: message
    receives: Change = lambda message: message


def only(kind: str, change: Change) -> Change:
    """Change only messages of one type."""
    return lambda message: change(message) if message.get("type") == kind else message


def refuse(_message: Message) -> Message:
    """Receive a message as one that ends the connection."""
    raise ProtocolViolation("an unknown message")


def altered(messages: Sequence[bytes], change: Change) -> list[bytes]:
    """Return encoded messages after a change."""
    changed = [change(json.loads(message)) for message in messages]
    return [json.dumps(message).encode() for message in changed if message is not None]
