"""Counts requests by outcome."""

from msgspec import Struct


class Counters(Struct):
    """Counts requests by outcome.

    Attributes:
        requests: requests with a valid body.
        completed: responses that were sent completely.
        failed: responses that were an error, or were interrupted.
        disconnected: requests whose client disconnected, or did not read its response.
        retried: jobs that were sent because an earlier one of the same request failed, was refused
            or lost its link.
    """

    requests: int = 0
    completed: int = 0
    failed: int = 0
    disconnected: int = 0
    retried: int = 0
