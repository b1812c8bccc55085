"""Encodes the frames of one message, and isolates those that cannot be sent.

Frames are valid by construction. If one is not, because of a defect, it must not cost the link,
which all jobs share.
"""

from collections.abc import Callable, Sequence

from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import AgentFrame, ResponseFrame

log = EventLogger(__name__)


class MessageEncoder:
    """Encodes batches of frames as messages.

    Args:
        encode: encodes frames as messages.
        max_bytes: the largest message that the coordinator accepts.
        on_unsendable: called with a job's first response frame that cannot be sent.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[AgentFrame]], Sequence[bytes]],
        max_bytes: int,
        on_unsendable: Callable[[ResponseFrame], None],
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._on_unsendable = on_unsendable

    def encode(self, frames: Sequence[AgentFrame]) -> Sequence[bytes]:
        """Return the messages of the frames, each with as many frames as possible.

        If one of them cannot be sent, each frame is encoded alone: a control frame that cannot be
        sent is dropped, and with a frame of a job, the job's further frames in `frames` too.
        """
        try:
            messages = self._encode(frames)
        except Exception:  # noqa: BLE001  the frame that causes it is logged below
            return self._encode_each(frames)
        if messages and max(map(len, messages)) > self._max_bytes:
            return self._encode_each(frames)
        return messages

    def _encode_each(self, frames: Sequence[AgentFrame]) -> Sequence[bytes]:
        messages: list[bytes] = []
        failed_jobs: set[bytes] = set()
        for frame in frames:
            if isinstance(frame, ResponseFrame) and frame.job_id in failed_jobs:
                continue
            encoded = self._encode_one(frame)
            if encoded is not None:
                messages += encoded
            elif isinstance(frame, ResponseFrame):
                failed_jobs.add(frame.job_id)
                self._on_unsendable(frame)
        return messages

    def _encode_one(self, frame: AgentFrame) -> Sequence[bytes] | None:
        kind = type(frame).__name__
        try:
            messages = self._encode([frame])
        except Exception:
            log.exception("frame cannot be sent", type=kind)
            return None
        size = sum(map(len, messages))
        if size > self._max_bytes:
            log.error("frame cannot be sent", type=kind, bytes=size)
            return None
        return messages
