"""The rule of a circuit breaker. A kind of backend may define its own."""

from msgspec import Struct


class BreakerRule(Struct, frozen=True):
    """When a breaker opens, and for how long.

    Attributes:
        failures: how many failures open the breaker. A success between them resets the count,
            unless `counts_client_errors` is True.
        window_s: the failures must happen within this time.
        open_s: how long the breaker first stays open.
        max_open_s: upper limit of the open time, which doubles with each failed trial job.
        counts_client_errors: for a service that blocks a key after too many failed requests. If
            True, errors that the client caused count too. An overload response that names a wait
            always causes a pause of that length; only if True, it also counts as a failure.
        per_model: whether the server limits and fails each model by itself. If True, a pause stops
            one model only, and failures are counted for each model; but with
            `counts_client_errors`, failures are still counted for the whole backend.
    """

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 10.0
    max_open_s: float = 300.0
    counts_client_errors: bool = False
    per_model: bool = False
