"""The messages between coordinators: batches for one coordinator, and snapshots for all.

A batch carries frames of protocol version 1, unchanged, and the few frames below, which exist only
between coordinators. Their types start at 64, because version 1 ends at 63. The version of these
messages is part of their NATS subject, so that coordinators of different versions do not read each
other's messages.

Peers are validated as agents are: every field has a limit, and a message that breaks one is
dropped as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Chunk,
    JobError,
    JobHeader,
    JobId,
    JobResult,
    JobStarted,
    RequestChunk,
)
from provider_agent.protocol.frames.fields import Count, Name, Offset, Share
from provider_agent.protocol.limits import (
    KIB,
    MAX_FRAMES_PER_MESSAGE,
    MAX_LIVE_JOBS,
    MAX_MODELS,
    MIB,
    MIN_WINDOW_BYTES,
)

MessageT = TypeVar("MessageT")

VERSION: Final = 1
"""The version of these messages, which the subjects contain."""

MAX_MESSAGE_BYTES: Final = MIB
"""The largest message: the default limit of a NATS server (`max_payload`)."""

SNAPSHOT_PART_BYTES: Final = 256 * KIB
"""The size at which a snapshot continues in another message: well below `MAX_MESSAGE_BYTES`."""

MAX_PARTS: Final = 256
"""The most messages of one snapshot."""

CoordinatorId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 random bytes, new at each start of a coordinator."""

PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]

WindowBytes = Annotated[int, Meta(ge=MIN_WINDOW_BYTES, le=2**30)]


class MalformedPeerMessage(Exception):
    """A message of another coordinator is invalid; the text contains nothing of its content."""


class Offer(Struct, tag=64, array_like=True, frozen=True):
    """From the edge: a job for one of the holder's agents; its request follows in pieces.

    The holder answers with the frames of the response, or refuses with a `JobError`.

    Attributes:
        public_key: the agent.
        header: the job.
        window_bytes: how many bytes of the response may be unacknowledged.
    """

    public_key: PublicKey
    header: JobHeader
    window_bytes: WindowBytes


class RenewedJob(Struct, array_like=True, frozen=True):
    """The state of one job at its edge.

    Attributes:
        job_id: the job.
        received: every byte of the response before this offset has arrived.
        acked: every byte before this offset was passed on to the client.
        resend: whether the holder sends the response again from `received` on.
    """

    job_id: JobId
    received: Offset
    acked: Offset
    resend: bool = False


class Renewal(Struct, tag=65, array_like=True, frozen=True):
    """From the edge, at each interval: the jobs that it still wants from the holder.

    A job that is not renewed for three intervals is cancelled. A lost message therefore costs
    one interval: the next renewal repeats the acknowledgement, and requests the missing bytes.

    Attributes:
        jobs: the jobs; those of an edge with more of them are in several frames.
    """

    jobs: Annotated[list[RenewedJob], Meta(max_length=MAX_LIVE_JOBS)]


UNKNOWN_JOB: Final = "unknown_job"
"""The reason in `Gone` for a job that the holder does not have: its offer was lost, or the holder
cancelled it because it was not renewed. If no byte of it has arrived, it may be sent again."""


class Gone(Struct, tag=66, array_like=True, frozen=True):
    """From the holder: a job has no end and will have none.

    Attributes:
        job_id: the job.
        reason: `UNKNOWN_JOB`, or the name of a `coordinator.reason.Reason`.
    """

    job_id: JobId
    reason: Name


class AgentLost(Struct, tag=67, array_like=True, frozen=True):
    """From the holder: the agent of a job may be lost, or has returned.

    Attributes:
        job_id: the job.
        lost: whether the agent has been without a link for some time.
    """

    job_id: JobId
    lost: bool


EdgeFrame = Offer | RequestChunk | Ack | Cancel | Renewal
"""What the edge of a job sends to its holder."""

HolderFrame = JobStarted | Chunk | JobResult | JobError | Gone | AgentLost
"""What the holder of a job sends to its edge."""

PeerFrame = EdgeFrame | HolderFrame


class Batch(Struct, array_like=True, frozen=True):
    """Frames for one coordinator.

    Attributes:
        sender: the coordinator that sends it.
        frames: in order.
    """

    sender: CoordinatorId
    frames: Annotated[list[PeerFrame], Meta(min_length=1, max_length=MAX_FRAMES_PER_MESSAGE)]


class ModelEntry(Struct, array_like=True, frozen=True, gc=False):
    """One model of an agent: its offer, and what the agent reports about it.

    The last fields are those of `agents.model_report.ModelReport`.

    Attributes:
        model_id: as offered.
        operations: the operations that are offered for it.
        slots: how many of its jobs may run at once.
        in_flight: how many of its jobs have no end.
    """

    model_id: Name
    operations: Annotated[list[Name], Meta(max_length=64)]
    slots: Count
    in_flight: Count = 0
    other_requests: Count = 0
    cache_used: Share = 0.0
    is_cold: bool = False
    is_down: bool = False
    job_s: Annotated[float, Meta(ge=0)] | None = None


class AgentEntry(Struct, array_like=True, frozen=True, gc=False):
    """One agent in a snapshot.

    Attributes:
        public_key: the agent's identity.
        capacity: how many jobs it executes at once.
        in_flight: how many of its jobs have no end.
        draining: whether it accepts no more jobs.
        overdue: whether it may be lost.
        send_queue_full: whether too many bytes of requests are queued for it.
        models: the models that receive jobs.
        receipts: whether the ends of its jobs have receipts.
        process: which process of the agent is connected; see `ids.process_of`.
    """

    public_key: PublicKey
    capacity: Count
    in_flight: Count
    draining: bool
    overdue: bool
    send_queue_full: bool
    models: Annotated[list[ModelEntry], Meta(max_length=MAX_MODELS)]
    receipts: bool = False
    process: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class Snapshot(Struct, frozen=True):
    """All agents of one coordinator, or a part of them.

    Attributes:
        sender: the coordinator that has their connections.
        revision: increases with each snapshot of one coordinator; the same in all of its parts.
        part: the number of this part, from 0 on.
        parts: how many parts the snapshot has.
        leaving: whether the coordinator stops; it then has no agents.
        agents: the agents of this part.
    """

    sender: bytes
    revision: int
    part: int
    parts: int
    leaving: bool
    agents: list[AgentEntry]


class _EncodedSnapshot(Struct, array_like=True, frozen=True):
    """A `Snapshot` whose agents are encoded, or not yet decoded."""

    sender: CoordinatorId
    revision: Count
    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    leaving: bool
    agents: Annotated[list[Raw], Meta(max_length=MAX_FRAMES_PER_MESSAGE)]


_ENCODER = msgspec.msgpack.Encoder()
_BATCH = msgspec.msgpack.Decoder(Batch)
_SNAPSHOT = msgspec.msgpack.Decoder(_EncodedSnapshot)
_ENTRY = msgspec.msgpack.Decoder(AgentEntry)


def encode_batch(sender: bytes, frames: Sequence[PeerFrame]) -> bytes:
    """Encode frames for one coordinator as one message."""
    return _ENCODER.encode(Batch(sender, list(frames)))


def frame_size(frame: PeerFrame) -> int:
    """Return about how many bytes a frame takes in a batch."""
    if isinstance(frame, Chunk | RequestChunk):
        return len(frame.data) + 64
    return len(_ENCODER.encode(frame))


def encode_entry(agent: AgentEntry) -> bytes:
    """Encode an agent; models that do not fit into a part of a snapshot are left out."""
    while len(encoded := _ENCODER.encode(agent)) > SNAPSHOT_PART_BYTES:
        kept = agent.models[: len(agent.models) // 2]
        agent = msgspec.structs.replace(agent, models=kept)
    return encoded


def encode_snapshot(
    sender: bytes, revision: int, entries: Iterable[bytes], *, leaving: bool = False
) -> list[bytes]:
    """Encode a snapshot of encoded entries as one message or more.

    Agents beyond the last part are left out.
    """
    parts: list[list[Raw]] = [[]]
    size = 0
    for entry in entries:
        if size and size + len(entry) > SNAPSHOT_PART_BYTES:
            if len(parts) == MAX_PARTS:
                break
            parts.append([])
            size = 0
        parts[-1].append(Raw(entry))
        size += len(entry)
    return [
        _ENCODER.encode(_EncodedSnapshot(sender, revision, number, len(parts), leaving, part))
        for number, part in enumerate(parts)
    ]


def decode_batch(message: bytes) -> Batch:
    """Decode a batch.

    Raises:
        MalformedPeerMessage: it is invalid or too big.
    """
    return decode_as(_BATCH, message)


def decode_snapshot(
    message: bytes, decode: Callable[[bytes, int], Callable[[bytes], AgentEntry]] | None = None
) -> Snapshot:
    """Decode a part of a snapshot; raises as `decode_batch` does.

    Args:
        message: the message.
        decode: called with the sender and the number of the part; returns what decodes its
            entries. By default, `decode_entry`.
    """
    found = decode_as(_SNAPSHOT, message)
    if found.part >= found.parts:
        raise MalformedPeerMessage("a part beyond the last one")
    entry = decode_entry if decode is None else decode(found.sender, found.part)
    agents = [entry(bytes(raw)) for raw in found.agents]
    return Snapshot(found.sender, found.revision, found.part, found.parts, found.leaving, agents)


def decode_entry(encoded: bytes) -> AgentEntry:
    """Decode an agent; raises as `decode_batch` does."""
    return decode_as(_ENTRY, encoded)


def decode_as(decoder: msgspec.msgpack.Decoder[MessageT], message: bytes) -> MessageT:
    """Decode a message of another coordinator; raises as `decode_batch` does."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise MalformedPeerMessage(f"a message of {len(message)} bytes")
    try:
        return decoder.decode(message)
    except (ValueError, RecursionError) as error:
        raise MalformedPeerMessage("not a well-formed message") from error
