"""Batches: how many queued frames share one WebSocket message to an agent."""

from provider_agent.protocol.frames import CoordinatorFrame, Job

_FRAME_BYTES = 128
"""The estimated size of a frame without the request of a `Job`. Only `Welcome.resumed`, with one
entry per resumed job, can be much larger."""


def frame_bytes(frame: CoordinatorFrame) -> int:
    """The estimated encoded size of a frame."""
    return _FRAME_BYTES + (len(frame.request) if isinstance(frame, Job) else 0)


def pop_batch(queue: list[CoordinatorFrame], budget_bytes: int) -> list[CoordinatorFrame]:
    """Remove frames from the front of `queue`, up to about `budget_bytes`, but at least one frame.

    A job larger than the budget is sent in a message of its own, which stays within the agent's
    limit.
    """
    total = 0
    count = 0
    for frame in queue:
        total += frame_bytes(frame)
        if count and total > budget_bytes:
            break
        count += 1
    batch = queue[:count]
    del queue[:count]
    return batch
