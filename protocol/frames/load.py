"""The load of an agent."""

from typing import Annotated

from msgspec import Meta, Struct

from provider_agent.protocol.frames.fields import Count, Name, Share
from provider_agent.protocol.limits import MAX_MODEL_LOADS


class ModelLoad(Struct, array_like=True, frozen=True):
    """The load of one model on one backend. None: not reported or not measured.

    Attributes:
        model_id: as offered.
        state: `loaded`, `loading`, `cold` (the server loads it on demand), `down`; "" if unknown.
        in_flight: how many of this agent's jobs use it.
        running: requests that the server processes, of all its clients.
        waiting: requests in the server's queue, of all its clients.
        cache_used: used share (0…1) of the key-value cache.
        prefill_tokens_per_second: measured speed of reading a prompt, of one job.
        decode_tokens_per_second: measured speed of output, of one job.
    """

    model_id: Name
    state: Name
    in_flight: Count
    running: Count | None = None
    waiting: Count | None = None
    cache_used: Share | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class BackendLoad(Struct, array_like=True, frozen=True):
    """The load of one backend.

    Attributes:
        backend_id: `<kind>:<url>` or `<kind>`; of two equal ids, the second ends with `#2`.
        healthy: whether its last health check succeeded and it has not stalled since.
        in_flight: how many of this agent's jobs run on it.
        capacity: how many of this agent's jobs it accepts at once.
        running: requests that the server processes, of all its clients; None: not reported.
        waiting: requests in the server's queue, of all its clients; None: not reported.
        cache_used: used share (0…1) of the key-value cache; None: not reported.
        models: the load of its models; a model may be left out when nothing is known about it.
    """

    backend_id: Name
    healthy: bool
    in_flight: Count
    capacity: Count
    running: Count | None = None
    waiting: Count | None = None
    cache_used: Share | None = None
    models: Annotated[list[ModelLoad], Meta(max_length=MAX_MODEL_LOADS)] = []


class Heartbeat(Struct, tag=35, array_like=True, frozen=True):
    """The agent's load.

    Its own rates and times cover the last 60 seconds; None: nothing was measured.

    Attributes:
        in_flight: how many jobs run now.
        queued: how many of them have no byte of response yet.
        capacity: how many jobs the agent accepts at once.
        tokens_per_second: output tokens of finished jobs, as reported by their servers.
        first_byte_p50_ms: median time from a job's arrival to the first byte of its response.
        first_byte_p95_ms: the 95th percentile of that time.
        error_rate: share (0…1) of the ended jobs that failed through the provider's fault.
        backends: the load of each backend.
    """

    in_flight: Count
    queued: Count
    capacity: Count
    tokens_per_second: float | None
    first_byte_p50_ms: float | None
    first_byte_p95_ms: float | None
    error_rate: float | None
    backends: Annotated[list[BackendLoad], Meta(max_length=1024)] = []
