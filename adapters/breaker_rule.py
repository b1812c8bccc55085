"""The rule of a circuit breaker. A kind of backend may define its own."""

from msgspec import Struct


class BreakerRule(Struct, frozen=True):
    """When a breaker opens, and for how long.

    Attributes:
        failures: how many failures, without a success between them, open the breaker.
        window_s: the period in which these failures must happen.
        open_s: how long the breaker first stays open.
        max_open_s: upper limit of the open time, which doubles with each failed trial job.
        counts_client_errors: whether every response with an error status counts, even if the client
            caused the error, and a success does not reset the count. For a service that blocks
            a key after too many failed requests.
    """

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 10.0
    max_open_s: float = 300.0
    counts_client_errors: bool = False
