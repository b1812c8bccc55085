"""Cases about messages and frames: malformed, unknown, and unusual but valid ones.

The cases of `CLOSING` end their connection.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList
from provider_agent.conformance.coordinator_peer import new_job
from provider_agent.conformance.hostile_messages import HOSTILE_MESSAGES, HostileMessage
from provider_agent.protocol.frames import JobResult, Notice, RoutingStatus, UnroutableModel
from provider_agent.protocol.limits import MAX_INTEGER, MAX_MESSAGE_TO_AGENT_BYTES

CASES = CaseList[AgentUnderTest]()
CLOSING = CaseList[AgentUnderTest]()

_ANCHOR: Final = "messages-and-frames"
_JOB_HEADER: Final = 4
_CANCEL: Final = 5
_DRAIN: Final = 7
_UNKNOWN: Final = 31
"""A type that no frame of this version has."""


def _hostile_case(message: HostileMessage) -> Callable[[AgentUnderTest], Awaitable[str]]:
    async def run(agent: AgentUnderTest) -> str:
        peer = await agent.connected()
        await peer.send_raw(message.to_agent)
        if message.close_code is not None:
            return await peer.expect_close(message.close_code)
        await peer.run_job()
        return "a job was run afterwards"

    return run


for _message in HOSTILE_MESSAGES:
    if _message.close_code is None:
        _rule = f"After {_message.name} the connection stays open."
        CASES.add(_message.case_id, "versions", _rule, _hostile_case(_message))
    elif _message.close_code != 1009:
        _rule = f"After {_message.name} the connection closes with 1002."
        CLOSING.add(_message.case_id, _ANCHOR, _rule, _hostile_case(_message))


@CLOSING.must("message-too-big", "limits", "A message of more than 1 MiB closes with 1009.")
async def refuses_big_message(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send_raw(bytes(MAX_MESSAGE_TO_AGENT_BYTES + 1))
    return await peer.expect_close(1009)


@CASES.must("message-largest", "limits", "A message of 1 MiB is accepted.")
async def accepts_largest_message(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    overhead = len(b"\x91\x92\x1f\xc6\x00\x00\x00\x00")
    size = MAX_MESSAGE_TO_AGENT_BYTES
    await peer.send_raw(msgspec.msgpack.encode([[_UNKNOWN, bytes(size - overhead)]]))
    await peer.run_job()
    return f"{size} bytes in one message"


@CASES.must("integer-forms", _ANCHOR, "Integers and lengths may use any wide enough encoding.")
async def accepts_long_forms(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = new_job(peer.model_id)
    header = job.header
    name = header.model_id.encode()
    # uint 16, bin 32, str 32, str 16, uint 64 and int 64, where msgspec would use a shorter form
    fields = [
        b"\xcd" + _JOB_HEADER.to_bytes(2, "big"),
        b"\xc6" + (16).to_bytes(4, "big") + header.job_id,
        b"\xdb" + len(name).to_bytes(4, "big") + name,
        b"\xda" + (6).to_bytes(2, "big") + b"openai",
        b"\xcf" + header.request_bytes.to_bytes(8, "big"),
        b"\xd3" + header.deadline_ms.to_bytes(8, "big"),
    ]
    peer.adopt(job)
    count = len(fields).to_bytes(4, "big")
    message = b"\xdd\x00\x00\x00\x01\xdd" + count + b"".join(fields)
    await peer.send_encoded(message, header)
    await peer.send(job.piece(0, header.request_bytes))
    await peer.read_to_end(job)
    return "a job with longer encodings than necessary and no optional fields was run"


@CLOSING.must("integer-too-large", _ANCHOR, "An integer of 2^53 closes with 1002.")
async def refuses_too_large_integer(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAIN, "", MAX_INTEGER + 1]]))
    return await peer.expect_close(1002)


@CLOSING.must("integer-fraction", _ANCHOR, "A fraction in an integer field closes with 1002.")
async def refuses_fraction(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAIN, "", 1.5]]))
    return await peer.expect_close(1002)


@CASES.must("extension-unknown", _ANCHOR, "Extension types in unknown fields are skipped.")
async def skips_extension_types(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    extension = msgspec.msgpack.Ext(5, b"x")
    await peer.send_raw(msgspec.msgpack.encode([[_CANCEL, bytes(16), "", extension]]))
    await peer.send_raw(msgspec.msgpack.encode([[_UNKNOWN, extension]]))
    await peer.run_job()
    return "a job was run afterwards"


@CLOSING.must("extension-known", _ANCHOR, "An extension type in a known field closes with 1002.")
async def refuses_extension_type(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAIN, "", msgspec.msgpack.Ext(5, b"x")]]))
    return await peer.expect_close(1002)


@CASES.must(
    "notices", "notices-and-routing", "`Notice` and `RoutingStatus` are accepted at any time."
)
async def accepts_notices(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    unroutable = UnroutableModel("conformance-no-such-model", "x-conformance", "")
    await peer.send(
        Notice("x-conformance", "x-severity", "A notice of the conformance tests."),
        RoutingStatus(peer.capabilities.revision + 1, [unroutable]),
        RoutingStatus(peer.capabilities.revision, []),
    )
    await peer.run_job()
    return "with unknown codes and an unknown model"


@CASES.must("grouping", _ANCHOR, "The grouping of frames into messages has no meaning.")
async def ignores_grouping(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    first, second = new_job(peer.model_id), new_job(peer.model_id)
    half = len(first.request) // 2
    for job in (first, second):
        peer.adopt(job)
    await peer.send(
        first.header,
        first.piece(0, half),
        second.header,
        second.piece(0, half),
        first.piece(half, len(first.request)),
    )
    await peer.send(second.piece(half, len(second.request)))
    ends: list[JobResult] = [await peer.read_to_end(job) for job in (first, second)]
    return f"two interleaved jobs in two messages, {len(ends)} results"
