"""Rules about everything that an agent sent in a run."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from provider_agent.conformance.case import CaseList, require
from provider_agent.conformance.coordinator_peer import CoordinatorPeer
from provider_agent.protocol.frames import (
    Ack,
    Challenge,
    Chunk,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    Welcome,
)
from provider_agent.protocol.receipts import FEATURE

CASES = CaseList[Sequence[CoordinatorPeer]]()

_JOBS: Final = "the-states-of-a-job"


@CASES.must("traffic-messages", "limits", "Every message is well-formed and within the limit.")
async def sends_valid_messages(peers: Sequence[CoordinatorPeer]) -> str:
    largest = 0
    for peer in peers:
        require(not peer.defect, f"it sent {peer.defect}")
        size = max(peer.message_sizes, default=0)
        welcomes = [e.frame for e in peer.transcript if isinstance(e.frame, Welcome)]
        limit = max((welcome.max_message_bytes for welcome in welcomes), default=size)
        require(size <= limit, f"a message of {size} bytes; the limit is {limit}")
        largest = max(largest, size)
    return f"messages of at most {largest} bytes"


@CASES.must("traffic-states", "handshake", "`Hello` is sent once, and first.")
async def sends_hello_once(peers: Sequence[CoordinatorPeer]) -> str:
    for peer in peers:
        seen: set[type] = set()
        for entry in peer.transcript:
            if entry.direction == "sent":
                seen.add(type(entry.frame))
                continue
            name = type(entry.frame).__name__
            if isinstance(entry.frame, Hello):
                require(Challenge in seen and Hello not in seen, "Hello at a wrong time")
                seen.add(Hello)
            else:
                require(Welcome in seen, f"{name} before Welcome")
    return f"{len(peers)} connections"


class _Response(Struct):
    """The state of a job's response on one connection."""

    next_offset: int
    acked: int = 0
    started: bool = False
    ended: bool = False


@CASES.must("traffic-jobs", _JOBS, "A job's frames are in order, within the window, with one end.")
async def sends_responses_in_order(peers: Sequence[CoordinatorPeer]) -> str:
    count = 0
    for peer in peers:
        jobs: dict[bytes, _Response] = {}
        window = 0
        for entry in peer.transcript:
            match entry.frame:
                case Welcome(window_bytes=window_bytes, resumed=resumed):
                    window = window_bytes
                    jobs = {r.job_id: _Response(r.offset, 0, r.offset > 0) for r in resumed}
                case JobHeader(job_id=job_id):
                    jobs.setdefault(job_id, _Response(0))
                case Ack(job_id=job_id, offset=offset) if job_id in jobs:
                    jobs[job_id].acked = max(jobs[job_id].acked, offset)
                case JobStarted() | Chunk() | JobResult() | JobError() as frame:
                    count += 1
                    require(
                        frame.job_id in jobs, "a frame of a job that was neither sent nor resumed"
                    )
                    _check_frame(frame, jobs[frame.job_id], window)
    return f"{count} frames of jobs"


def _check_frame(
    frame: JobStarted | Chunk | JobResult | JobError, job: _Response, window: int
) -> None:
    require(not job.ended, f"{type(frame).__name__} after the end")
    # An `Ack` of bytes that only an earlier link carried lets the agent skip these bytes.
    expected = max(job.next_offset, job.acked)
    match frame:
        case JobStarted():
            require(not job.started, "JobStarted twice")
            job.started = True
        case Chunk(offset=offset, data=data):
            require(job.started, "a Chunk before JobStarted")
            require(bool(data), "a Chunk without data")
            observed = f"a Chunk at {offset}, not {expected}"
            require(offset in (job.next_offset, expected), observed)
            job.next_offset = offset + len(data)
            excess = job.next_offset - job.acked
            require(excess <= window, f"{excess} bytes unacknowledged, window {window}")
        case JobResult(total_bytes=total) | JobError(total_bytes=total):
            observed = f"total_bytes {total}, but {job.next_offset} arrived"
            require(total in (job.next_offset, expected), observed)
            require(job.started or isinstance(frame, JobError), "JobResult before JobStarted")
            job.ended = True


@CASES.must("traffic-headers", "jobstarted", "Response headers do not describe the account.")
async def hides_account_headers(peers: Sequence[CoordinatorPeer]) -> str:
    names = {
        header.name
        for peer in peers
        for started in peer.received_of(JobStarted)
        for header in started.headers
    }
    hidden = [name for name in names if "ratelimit" in name or "organization" in name]
    require(not hidden, f"headers {hidden}")
    return f"headers {sorted(names)}" if names else "no headers"


@CASES.must("traffic-lists", "messages-and-frames", "No list contains an entry twice.")
async def lists_once(peers: Sequence[CoordinatorPeer]) -> str:
    for peer in peers:
        for hello in peer.received_of(Hello):
            _require_unique("live_jobs", [job.job_id for job in hello.live_jobs])
            _require_unique("features", hello.features)
        for started in peer.received_of(JobStarted):
            _require_unique("headers", [header.name for header in started.headers])
        for heartbeat in peer.received_of(Heartbeat):
            for backend in heartbeat.backends:
                _require_unique("models", [load.model_id for load in backend.models])
    return f"{len(peers)} connections"


def _require_unique(field: str, names: Sequence[object]) -> None:
    require(len(set(names)) == len(names), f"`{field}` with the same entry twice")


@CASES.must("traffic-features", "features", "Fields of an inactive feature are not sent.")
async def leaves_out_inactive_features(peers: Sequence[CoordinatorPeer]) -> str:
    count = 0
    for peer in peers:
        active: list[str] = []
        for entry in peer.transcript:
            if isinstance(entry.frame, Welcome):
                active = entry.frame.features
            elif isinstance(entry.frame, JobResult | JobError):
                count += 1
                allowed = FEATURE in active or entry.frame.receipt is None
                require(allowed, "a receipt that was not negotiated")
    return f"{count} ends"
