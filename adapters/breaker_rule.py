"""When the circuit breaker of a backend opens. Each kind of backend may have a rule of its own."""

from msgspec import Struct


class BreakerRule(Struct, frozen=True):
    """When a breaker opens, and for how long.

    Attributes:
        failures: the number of failures without a success between them that opens it.
        window_s: the time in which those failures must happen.
        open_s: how long it stays open the first time.
        max_open_s: the longest time that it stays open; each failed trial doubles the time.
        counts_client_errors: for a service that blocks a key after too many failed requests: every
            answered request with an error status counts, also one that failed by the client's
            fault, and a success does not reset the count.
    """

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 10.0
    max_open_s: float = 300.0
    counts_client_errors: bool = False
