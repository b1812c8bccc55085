"""What a peer's bytes can do wrong.

::

    ProtocolError                 the connection ends; `close_code` says how
    ├── MalformedMessage   1002   not a MessagePack array of well-formed frames
    ├── MessageTooBig      1009   over the limit of its receiver
    └── ProtocolViolation  1002   well-formed, but not allowed now (order, offset, window)

The text of these errors never holds what the peer sent: it may be a prompt or a secret.
"""

from typing import ClassVar


class ProtocolError(Exception):
    """The peer broke the protocol; close the connection with `close_code`."""

    close_code: ClassVar[int] = 1002


class MalformedMessage(ProtocolError):
    """A message that is not a MessagePack array of well-formed frames."""


class MessageTooBig(ProtocolError):
    """A message over the receiver's limit."""

    close_code: ClassVar[int] = 1009


class ProtocolViolation(ProtocolError):
    """A well-formed frame at the wrong time or with an impossible value."""
