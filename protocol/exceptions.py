"""Errors in what a peer sent.

::

    ProtocolError                 close the connection with `close_code`
    ├── MalformedMessage   1002   not a MessagePack array of well-formed frames
    ├── MessageTooBig      1009   larger than the receiver's limit
    └── ProtocolViolation  1002   well-formed, but not allowed now (order, offset, window)

The error texts never contain what the peer sent: it may be a prompt or a secret.
"""

from typing import ClassVar


class ProtocolError(Exception):
    """The peer broke the protocol; close the connection with `close_code`."""

    close_code: ClassVar[int] = 1002


class MalformedMessage(ProtocolError):
    """A message that is not a MessagePack array of well-formed frames."""


class MessageTooBig(ProtocolError):
    """A message larger than the receiver's limit."""

    close_code: ClassVar[int] = 1009


class ProtocolViolation(ProtocolError):
    """A well-formed frame at the wrong time or with an impossible value."""
