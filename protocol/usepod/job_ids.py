"""Maps the job ids of the dialect, which are texts, to the 16 bytes of our frames."""

import uuid
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

from provider_agent.protocol.limits import MAX_LIVE_JOBS

_MAX_REMEMBERED: Final = 2 * MAX_LIVE_JOBS
"""More ids than the agent itself remembers, so that none of those is used for another job."""

_ID_BYTES: Final = 16


class JobIds:
    """The jobs of one agent process.

    On one connection, a job id that arrives twice is one job. On the next connection it is another
    one: a lost connection ends its jobs, and the coordinator may assign one of them again.

    The 16 bytes are those of the UUID, so that logs and ledger show the coordinator's id. For any
    other text, and for a UUID that an earlier connection used, they are derived from a counter.
    """

    def __init__(self) -> None:
        self._used: OrderedDict[bytes, None] = OrderedDict()
        self._received: OrderedDict[str, None] = OrderedDict()
        """The ids that arrived on this connection."""
        self._texts: dict[bytes, str] = {}
        """The jobs whose end was not sent."""
        self._live: dict[str, bytes] = {}
        """The same jobs by text: of a long one, `_received` may no longer have the id."""
        self._derived = 0

    def __repr__(self) -> str:
        return f"<JobIds live={len(self._texts)} used={len(self._used)}>"

    def start_connection(self) -> None:
        """Forget the jobs of the previous connection."""
        self._received.clear()
        self._texts.clear()
        self._live.clear()

    def add(self, text: str) -> bytes | None:
        """Return the 16 bytes of a new job; None if its id has already arrived."""
        if text in self._received or text in self._live:
            return None
        job_id = _uuid_bytes(text)
        while job_id is None or job_id in self._used:
            self._derived += 1
            job_id = blake2b(f"{self._derived} {text}".encode(), digest_size=_ID_BYTES).digest()
        self._received[text] = None
        self._used[job_id] = None
        self._texts[job_id] = text
        self._live[text] = job_id
        if len(self._received) > _MAX_REMEMBERED:
            self._received.popitem(last=False)
        if len(self._used) > _MAX_REMEMBERED:
            self._used.popitem(last=False)
        return job_id

    def find(self, text: str) -> bytes | None:
        """Return the 16 bytes of a job whose end was not sent; None for any other id."""
        return self._live.get(text)

    def text(self, job_id: bytes) -> str | None:
        """Return the id to send; None if nothing more may be sent for this job."""
        return self._texts.get(job_id)

    def end(self, job_id: bytes) -> str | None:
        """Send nothing more for a job; return its id, None if that was already so."""
        text = self._texts.pop(job_id, None)
        if text is not None:
            del self._live[text]
        return text


def uuid_text(job_id: bytes) -> str:
    """Return the usual form of a UUID, which the coordinators of this project send."""
    return str(uuid.UUID(bytes=job_id))


def _uuid_bytes(text: str) -> bytes | None:
    """Return the bytes of a UUID in its usual form; None for any other text."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.bytes if str(parsed) == text else None
