import msgspec
import pytest

from provider_agent.coordinator.cluster import messages
from provider_agent.coordinator.cluster.messages import (
    MAX_MESSAGE_BYTES,
    SNAPSHOT_PART_BYTES,
    AgentLost,
    Gone,
    MalformedPeerMessage,
    Offer,
    PeerFrame,
    Renewal,
    RenewedJob,
    decode_batch,
    decode_snapshot,
    encode_batch,
    encode_entry,
    encode_snapshot,
)
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Chunk,
    JobError,
    JobResult,
    JobStarted,
    RequestChunk,
    Usage,
)
from tests.kit.cluster_pair import AGENT_KEY, EDGE, WINDOW, agent_entry, chat_job, model_entry

JOB_ID = b"j" * 16

FRAMES: list[PeerFrame] = [
    Offer(AGENT_KEY, chat_job().header, WINDOW),
    RequestChunk(JOB_ID, 0, b"{}"),
    Renewal([RenewedJob(JOB_ID, 2, 1, True)]),
    Ack(JOB_ID, 3, final=True),
    Cancel(JOB_ID, "why"),
    JobStarted(JOB_ID, 200, "text/event-stream", "vllm"),
    Chunk(JOB_ID, 5, b"bytes"),
    JobResult(JOB_ID, 10, Usage(1, 2), "vllm", 5, 1),
    JobError(JOB_ID, 0, "out_of_capacity", "full"),
    Gone(JOB_ID, "provider_lost"),
    AgentLost(JOB_ID, True),
]


def test_batch_carries_every_frame_unchanged() -> None:
    batch = decode_batch(encode_batch(EDGE, FRAMES))
    assert batch.sender == EDGE
    assert batch.frames == FRAMES


def _encoded(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        _encoded(EDGE),
        _encoded(EDGE, []),
        _encoded(b"short", [[6, JOB_ID, 0]]),
        _encoded(EDGE, [[6, b"short", 0]]),
        _encoded(EDGE, [[6, JOB_ID, -1]]),
        _encoded(EDGE, [[1, bytes(32), "not between coordinators"]]),
        _encoded(EDGE, [[99, JOB_ID]]),
        _encoded(EDGE, [[64, AGENT_KEY, list(range(5)), WINDOW]]),
        _encoded(EDGE, [[65, [[JOB_ID, 0, 0]] * 4097]]),
        b"\x91" * 100_000,
        bytes(MAX_MESSAGE_BYTES + 1),
    ],
)
def test_invalid_batch_is_rejected(message: bytes) -> None:
    with pytest.raises(MalformedPeerMessage):
        decode_batch(message)


def test_window_of_an_offer_has_limits() -> None:
    for window in (WINDOW - 1, 2**30 + 1):
        offer = Offer(AGENT_KEY, chat_job().header, window)
        with pytest.raises(MalformedPeerMessage):
            decode_batch(encode_batch(EDGE, [offer]))


def test_snapshot_arrives_unchanged() -> None:
    entry = agent_entry(model_entry("one"), model_entry("two"))
    (message,) = encode_snapshot(EDGE, 7, [encode_entry(entry)])
    snapshot = decode_snapshot(message)
    assert (snapshot.sender, snapshot.revision, snapshot.leaving) == (EDGE, 7, False)
    assert (snapshot.part, snapshot.parts) == (0, 1)
    assert snapshot.agents == [entry]


def test_snapshot_without_agents_is_one_message() -> None:
    (message,) = encode_snapshot(EDGE, 1, [], leaving=True)
    assert decode_snapshot(message).leaving


def test_large_snapshot_is_split() -> None:
    models = [model_entry(f"model {number:0400}") for number in range(100)]
    entries = [agent_entry(*models, key=bytes([number]) * 32) for number in range(20)]
    parts = encode_snapshot(EDGE, 1, map(encode_entry, entries))
    assert len(parts) > 2
    assert max(map(len, parts)) <= SNAPSHOT_PART_BYTES + 1000
    decoded = [decode_snapshot(part) for part in parts]
    assert [(part.part, part.parts) for part in decoded] == [
        (number, len(parts)) for number in range(len(parts))
    ]
    assert [agent for part in decoded for agent in part.agents] == entries


def test_models_that_do_not_fit_into_a_message_are_left_out() -> None:
    models = [model_entry(f"model {number:0500}") for number in range(4096)]
    (message,) = encode_snapshot(EDGE, 1, [encode_entry(agent_entry(*models))])
    assert len(message) <= SNAPSHOT_PART_BYTES + 1000
    (agent,) = decode_snapshot(message).agents
    assert agent.models == models[: len(agent.models)] != []


def test_agents_beyond_the_last_part_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "SNAPSHOT_PART_BYTES", 100)
    monkeypatch.setattr(messages, "MAX_PARTS", 2)
    entries = [agent_entry(key=bytes([number]) * 32) for number in range(5)]
    assert len(encode_snapshot(EDGE, 1, map(encode_entry, entries))) == 2


@pytest.mark.parametrize("entry", [[], [AGENT_KEY, -1, 0, False, False, False, []], 7])
def test_snapshot_with_an_invalid_entry_is_rejected(entry: object) -> None:
    with pytest.raises(MalformedPeerMessage):
        decode_snapshot(_encoded(EDGE, 1, 0, 1, False, [entry]))


@pytest.mark.parametrize(("part", "parts"), [(1, 1), (2, 1), (256, 256), (0, 0)])
def test_impossible_number_of_a_part_is_rejected(part: int, parts: int) -> None:
    with pytest.raises(MalformedPeerMessage):
        decode_snapshot(_encoded(EDGE, 1, part, parts, False, []))
