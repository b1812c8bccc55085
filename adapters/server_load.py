"""What a server reports about its load."""

from enum import StrEnum

from msgspec import Struct


class ModelState(StrEnum):
    """Whether a server can run a model now. The values are those of the protocol's `ModelLoad`."""

    LOADED = "loaded"
    LOADING = "loading"
    COLD = "cold"
    """Not in memory: the server loads it for the next request."""
    DOWN = "down"
    """Set by the agent: the backend is unreachable, or its breaker is open."""


class ModelServerLoad(Struct, frozen=True):
    """A server's own report of the load of one model.

    A value is None if the server does not report it.

    Attributes:
        state: whether the model is in memory.
        running: requests in progress.
        waiting: requests in the queue of the model.
        cache_used: used share of the key-value cache, from 0 to 1.
        prefill_tokens_per_second: speed of reading the uncached part of one request's prompt.
        decode_tokens_per_second: speed of one request's output.
    """

    state: ModelState | None = None
    running: int | None = None
    waiting: int | None = None
    cache_used: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class ServerLoad(Struct, frozen=True):
    """A server's own report of its load, which includes requests from other programs.

    A value is None if the server does not report it.

    Attributes:
        running: requests in progress.
        waiting: requests in the server's queue.
        cache_used: used share of the key-value cache, from 0 to 1.
        models: the load of single models, by the id that jobs use.
        progress: a value that changes when the server processes tokens of any request.
    """

    running: int | None = None
    waiting: int | None = None
    cache_used: float | None = None
    models: dict[str, ModelServerLoad] = {}
    progress: str | None = None
