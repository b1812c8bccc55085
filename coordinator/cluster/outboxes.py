"""What is queued for one other coordinator. No I/O."""

from collections import OrderedDict, deque
from typing import TypeVar

from provider_agent.coordinator.cluster.messages import EdgeFrame, HolderFrame, frame_size
from provider_agent.coordinator.cluster.relayed_job import RelayedJob
from provider_agent.protocol.limits import CHUNK_BYTES
from provider_agent.protocol.request import RequestQueue

FrameT = TypeVar("FrameT", EdgeFrame, HolderFrame)


class HolderOutbox:
    """What an edge has queued for one holder.

    Attributes:
        frames: the frames to send, in order.
        requests: the requests of jobs, whose pieces follow the frames.
    """

    def __init__(self) -> None:
        self.frames: deque[EdgeFrame] = deque()
        self.requests = RequestQueue()

    def __repr__(self) -> str:
        return f"<HolderOutbox frames={len(self.frames)} bytes={self.requests.unsent_bytes}>"

    def next_frames(self, limit_bytes: int) -> list[EdgeFrame]:
        """Remove and return the frames of the next message, of about `limit_bytes` together."""
        frames, size = _take(self.frames, limit_bytes)
        while not self.frames and size < limit_bytes:
            chunk = self.requests.next_chunk(CHUNK_BYTES)
            if chunk is None:
                break
            frames.append(chunk)
            size += frame_size(chunk)
        return frames


class EdgeOutbox:
    """What a holder has queued for one edge.

    Attributes:
        frames: the frames to send, in order.
        ready: jobs whose responses have something to send, after the frames, by job id.
    """

    def __init__(self) -> None:
        self.frames: deque[HolderFrame] = deque()
        self.ready: OrderedDict[bytes, RelayedJob] = OrderedDict()

    def __repr__(self) -> str:
        return f"<EdgeOutbox frames={len(self.frames)} ready={len(self.ready)}>"

    def next_frames(self, limit_bytes: int) -> list[HolderFrame]:
        """Remove and return the frames of the next message, of about `limit_bytes` together.

        The jobs take turns, one chunk each.
        """
        frames, size = _take(self.frames, limit_bytes)
        while self.ready and size < limit_bytes:
            job_id, job = self.ready.popitem(last=False)
            response = job.stream.next_frames(CHUNK_BYTES)
            frames += response  # type: ignore[arg-type]
            size += sum(map(frame_size, response))  # type: ignore[arg-type]
            if job.stream.ready:
                self.ready[job_id] = job
        return frames


def _take(queued: deque[FrameT], limit_bytes: int) -> tuple[list[FrameT], int]:
    """Remove the first frames, of about `limit_bytes` together; return them and their size."""
    frames: list[FrameT] = []
    size = 0
    while queued and size < limit_bytes:
        frame = queued.popleft()
        frames.append(frame)
        size += frame_size(frame)
    return frames, size
