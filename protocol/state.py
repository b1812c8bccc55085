"""The states of one connection.

::

    agent        awaiting_challenge ──Challenge──▶ awaiting_welcome ──Welcome───▶ open
    coordinator  awaiting_hello ──────Hello──────▶ authenticated ────accept()───▶ open

A rejection leads from each state before `open` to `closed`.
"""

from enum import StrEnum


class State(StrEnum):
    """The state of a connection."""

    AWAITING_CHALLENGE = "awaiting_challenge"
    AWAITING_WELCOME = "awaiting_welcome"
    AWAITING_HELLO = "awaiting_hello"
    AUTHENTICATED = "authenticated"
    OPEN = "open"
    CLOSED = "closed"
