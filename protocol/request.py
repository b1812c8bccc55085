"""Request bodies in pieces: the coordinator's queue for sending, the agent's receive buffer.

Requests share the link with control frames and with each other: control frames go first, and jobs
take turns with one piece each, so that a large request delays nothing else.
"""

from collections import OrderedDict

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import RequestChunk
from provider_agent.protocol.limits import CHUNK_BYTES


class RequestQueue:
    """The request bodies that the coordinator has not sent completely.

    Args:
        whole: whether a piece is a whole request, whatever its size.

    Attributes:
        unsent_bytes: how many bytes are not sent yet, of all requests together.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.unsent_bytes = 0
        self._whole = whole
        self._unsent: OrderedDict[bytes, tuple[memoryview, int]] = OrderedDict()
        """job id → request body, and the offset of its first unsent byte."""

    def __repr__(self) -> str:
        return f"<RequestQueue requests={len(self._unsent)} unsent={self.unsent_bytes}>"

    def __bool__(self) -> bool:
        return bool(self._unsent)

    def add(self, job_id: bytes, request: bytes, offset: int = 0) -> None:
        """Queue the bytes of a request from `offset` on; do nothing if there are none."""
        if offset < len(request):
            self._unsent[job_id] = memoryview(request), offset
            self.unsent_bytes += len(request) - offset

    def drop(self, job_id: bytes) -> None:
        """Do not send the rest of a request; an unknown job id is ignored."""
        request, offset = self._unsent.pop(job_id, (b"", 0))
        self.unsent_bytes -= len(request) - offset

    def next_chunk(self, limit_bytes: int) -> RequestChunk | None:
        """Remove and return the next piece, of at most `limit_bytes`; None when none is left.

        A whole request may exceed the limit.
        """
        if not self._unsent:
            return None
        job_id, (request, offset) = self._unsent.popitem(last=False)
        size = len(request) if self._whole else min(limit_bytes, CHUNK_BYTES)
        end = min(offset + size, len(request))
        self.unsent_bytes -= end - offset
        if end < len(request):
            self._unsent[job_id] = request, end
        return RequestChunk(job_id, offset, bytes(request[offset:end]))


class RequestBuffer:
    """The pieces of one request that have arrived at the agent.

    Args:
        size: `JobHeader.request_bytes`.

    Attributes:
        received: every byte before this offset has arrived.
    """

    __slots__ = ("_pieces", "received", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self._pieces: list[bytes] = []

    def __repr__(self) -> str:
        return f"<RequestBuffer {self.received}/{self.size}>"

    @property
    def complete(self) -> bool:
        """Whether the whole request has arrived."""
        return self.received == self.size

    def receive(self, chunk: RequestChunk) -> None:
        """Add the new bytes of a piece; repeated bytes are dropped.

        Raises:
            ProtocolViolation: the piece follows a gap, is empty or exceeds the request's size.
        """
        offset, data = chunk.offset, chunk.data
        if not data:
            raise ProtocolViolation("a piece of a request without data")
        if offset > self.received:
            raise ProtocolViolation("a gap in a request")
        end = offset + len(data)
        if end > self.size:
            raise ProtocolViolation("a request beyond its size")
        if end > self.received:
            self._pieces.append(data[self.received - offset :] if offset < self.received else data)
            self.received = end

    def take(self) -> bytes:
        """Remove and return the bytes that have arrived."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
