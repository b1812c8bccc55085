"""Times of both HTTP clients: how long connections stay idle, and which requests are repeated."""

from typing import Final

KEEP_ALIVE_S: Final = 4.0
"""vLLM closes idle connections after 5 s; closing them earlier avoids most races."""

STALE_S: Final = 0.1
"""A request on a connection that the server had already closed fails within one round trip. If it
fails later than this, the server has probably received it."""

REMOTE_STALE_S: Final = 1.0
"""`STALE_S` for a server outside of the operator's network."""


def stale_after_s(*, remote: bool) -> float:
    """Return how soon a request on a reused connection must be lost to be sent again."""
    return REMOTE_STALE_S if remote else STALE_S
