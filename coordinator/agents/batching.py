"""Which frames share the next message to an agent."""

from provider_agent.protocol.frames import CoordinatorFrame, Job

_FRAME_BYTES = 128
"""About what a frame other than a job takes; its strings are rarely longer than a few words."""


def frame_bytes(frame: CoordinatorFrame) -> int:
    """About how many bytes a frame takes in a message."""
    return _FRAME_BYTES + (len(frame.request) if isinstance(frame, Job) else 0)


def pop_batch(frames: list[CoordinatorFrame], budget: int) -> list[CoordinatorFrame]:
    """Remove frames from the front until about `budget` bytes; always at least one, in order.

    A job bigger than the budget travels alone, so that it never exceeds what an agent accepts.
    """
    total = 0
    count = 0
    for frame in frames:
        total += frame_bytes(frame)
        if count and total > budget:
            break
        count += 1
    batch = frames[:count]
    del frames[:count]
    return batch
