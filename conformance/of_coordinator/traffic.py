"""Rules about everything that a coordinator sent in a run."""

from collections.abc import Sequence
from typing import Final

from provider_agent.conformance.agent_peer import AgentPeer
from provider_agent.conformance.case import CaseList, require
from provider_agent.protocol.frames import (
    Ack,
    Capabilities,
    Challenge,
    Chunk,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.limits import MAX_MESSAGE_TO_AGENT_BYTES
from provider_agent.protocol.receipts import FEATURE

CASES = CaseList[Sequence[AgentPeer]]()

_ALLOWED_BEFORE_HELLO: Final = (Challenge, Rejected)
_ALLOWED_AFTER_HELLO: Final = (Welcome, Rejected)


@CASES.must("traffic-messages", "limits", "Every message is well-formed and at most 1 MiB.")
async def sends_valid_messages(peers: Sequence[AgentPeer]) -> str:
    for peer in peers:
        require(not peer.defect, f"it sent {peer.defect}")
    sizes = [size for peer in peers for size in peer.message_sizes]
    largest = max(sizes, default=0)
    require(largest <= MAX_MESSAGE_TO_AGENT_BYTES, f"a message of {largest} bytes")
    return f"{len(sizes)} messages of at most {largest} bytes"


@CASES.must("traffic-states", "handshake", "No frame is sent in a state that does not allow it.")
async def sends_frames_in_order(peers: Sequence[AgentPeer]) -> str:
    for peer in peers:
        expected: tuple[type, ...] | None = _ALLOWED_BEFORE_HELLO  # None: after `Welcome`
        for entry in peer.transcript:
            name = type(entry.frame).__name__
            if isinstance(entry.frame, Hello):
                expected = _ALLOWED_AFTER_HELLO
            elif entry.direction == "received":
                is_handshake = isinstance(entry.frame, Challenge | Welcome | Rejected)
                allowed = isinstance(entry.frame, expected) if expected else not is_handshake
                require(allowed, f"{name} in a state that does not allow it")
                if isinstance(entry.frame, Welcome):
                    expected = None
    return f"{len(peers)} connections"


@CASES.must("traffic-job-ids", "the-states-of-a-job", "No job id is used twice.")
async def uses_job_ids_once(peers: Sequence[AgentPeer]) -> str:
    owner: dict[bytes, bytes] = {}
    ended: set[bytes] = set()
    for peer in peers:
        for entry in peer.transcript:
            frame = entry.frame
            if isinstance(frame, JobHeader):
                key = owner.setdefault(frame.job_id, peer.process.key.public_key)
                require(key == peer.process.key.public_key, "one job id for two agents")
                require(frame.job_id not in ended, "the id of an ended job")
            elif isinstance(frame, JobResult | JobError):
                ended.add(frame.job_id)
    return f"{len(owner)} jobs"


@CASES.must("traffic-offers", "handshake", "Jobs are sent only for models that were offered.")
async def sends_jobs_for_offers(peers: Sequence[AgentPeer]) -> str:
    for peer in peers:
        offered: set[str] = set()
        for entry in peer.transcript:
            if isinstance(entry.frame, Capabilities):
                offered |= {offer.model_id for offer in entry.frame.models}
            elif isinstance(entry.frame, JobHeader) and entry.frame.model_id not in offered:
                require(_names_session(peer), "a job for a model that was not offered")
    return f"{len(peers)} connections"


def _names_session(peer: AgentPeer) -> bool:
    """Whether `Hello` named a session.

    If it did, the coordinator may send lost jobs of that session again before it receives
    `Capabilities`.
    """
    return any(e.frame.session_id for e in peer.transcript if isinstance(e.frame, Hello))


@CASES.must("traffic-requests", "requests", "Pieces of a request have no gap and no overlap.")
async def sends_requests_in_order(peers: Sequence[AgentPeer]) -> str:
    pieces = 0
    for peer in peers:
        next_offset: dict[bytes, int] = {}
        size: dict[bytes, int] = {}
        for entry in peer.transcript:
            match entry.frame:
                case Hello(live_jobs=live_jobs):
                    next_offset |= {job.job_id: job.request_offset for job in live_jobs}
                case JobHeader() as header:
                    next_offset[header.job_id] = 0
                    size[header.job_id] = header.request_bytes
                case RequestChunk() as piece:
                    pieces += 1
                    expected = next_offset.get(piece.job_id, 0)
                    require(piece.offset == expected, f"a piece at {piece.offset}, not {expected}")
                    require(bool(piece.data), "an empty piece of a request")
                    next_offset[piece.job_id] = expected + len(piece.data)
                    # The size is unknown if the header arrived on an earlier link.
                    limit = size.get(piece.job_id, next_offset[piece.job_id])
                    require(next_offset[piece.job_id] <= limit, "bytes beyond `request_bytes`")
    return f"{pieces} pieces"


@CASES.must(
    "traffic-acks", "flow-control", "An `Ack` covers only what was sent; offsets never decrease."
)
async def acknowledges_what_was_sent(peers: Sequence[AgentPeer]) -> str:
    count = 0
    for peer in peers:
        sent: dict[bytes, int] = {}
        acked: dict[bytes, int] = {}
        ends: dict[bytes, int] = {}
        for entry in peer.transcript:
            match entry.frame:
                case Hello(live_jobs=live_jobs):
                    sent |= {job.job_id: job.next_offset for job in live_jobs}
                    ends |= {job.job_id: job.next_offset for job in live_jobs if job.ended}
                case Chunk() as chunk:
                    end = chunk.offset + len(chunk.data)
                    sent[chunk.job_id] = max(end, sent.get(chunk.job_id, 0))
                case JobResult() | JobError() as end_frame:
                    ends[end_frame.job_id] = end_frame.total_bytes
                case Ack() as ack:
                    count += 1
                    _check_ack(ack, sent, acked, ends)
    return f"{count} acknowledgements"


def _check_ack(
    ack: Ack, sent: dict[bytes, int], acked: dict[bytes, int], ends: dict[bytes, int]
) -> None:
    if ack.final:
        require(ack.job_id in ends, "a final Ack before the end")
        total = ends[ack.job_id]
        require(ack.offset == total, f"a final Ack of {ack.offset}, total_bytes is {total}")
        return
    require(ack.offset <= sent.get(ack.job_id, 0), f"an Ack of {ack.offset}, more than was sent")
    require(ack.offset >= acked.get(ack.job_id, 0), "an Ack below an earlier one")
    acked[ack.job_id] = ack.offset


@CASES.must("traffic-lists", "messages-and-frames", "No list contains an entry twice.")
async def lists_once(peers: Sequence[AgentPeer]) -> str:
    welcomes = [welcome for peer in peers for welcome in peer.received_of(Welcome)]
    for welcome in welcomes:
        ids = [job.job_id for job in welcome.resumed]
        require(len(set(ids)) == len(ids), "a job twice in `resumed`")
        require(len(set(welcome.features)) == len(welcome.features), "a feature twice")
    return f"{len(welcomes)} Welcomes"


@CASES.must("traffic-features", "features", "Fields of an inactive feature are not sent.")
async def leaves_out_inactive_features(peers: Sequence[AgentPeer]) -> str:
    headers = 0
    for peer in peers:
        active: list[str] = []
        offered: list[str] = []
        for entry in peer.transcript:
            match entry.frame:
                case Challenge(features=features):
                    offered = features
                case Hello(features=features):
                    offered = [name for name in offered if name in features]
                case Welcome(features=features):
                    active = features
                    require(set(active) <= set(offered), f"{active} of {offered} are active")
                case JobHeader(sign_receipt=sign_receipt):
                    headers += 1
                    require(FEATURE in active or not sign_receipt, "`sign_receipt` while inactive")
    return f"{headers} headers of jobs"
