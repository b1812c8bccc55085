"""A monotonic clock that tests advance by hand."""


class FakeClock:
    """Returns `now`, in seconds.

    Args:
        now: the first value; not zero by default, because a real monotonic clock is not either.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
