"""Cases about messages and frames: malformed, unknown, and unusual but valid ones."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from provider_agent.conformance.agent_peer import chunk, offer, result, started
from provider_agent.conformance.case import CaseList, NotTested, require
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.conformance.hostile_messages import HOSTILE_MESSAGES, HostileMessage
from provider_agent.protocol.frames import Ack, AgentFrame, AgentLimits, Capabilities, Challenge
from provider_agent.protocol.limits import MAX_INTEGER, MIN_MESSAGE_TO_COORDINATOR_BYTES

CASES = CaseList[CoordinatorUnderTest]()

_ANCHOR: Final = "messages-and-frames"
_LARGEST_TESTED_LIMIT: Final = 32 * 1024 * 1024
_CAPABILITIES: Final = 34
_DRAINING: Final = 40
_UNKNOWN: Final = 63
"""A type that no frame of this version has."""


def _hostile_case(message: HostileMessage) -> Callable[[CoordinatorUnderTest], Awaitable[str]]:
    async def run(coordinator: CoordinatorUnderTest) -> str:
        peer = await coordinator.connect()
        await peer.send_raw(message.to_coordinator)
        if message.close_code is not None:
            return await peer.expect_close(message.close_code)
        return await peer.expect_open()

    return run


for _message in HOSTILE_MESSAGES:
    if _message.close_code != 1009:
        _reaction = "closes with 1002" if _message.close_code else "stays open"
        _rule = f"After {_message.name} the connection {_reaction}."
        _anchor = _ANCHOR if _message.close_code else "versions"
        CASES.add(_message.case_id, _anchor, _rule, _hostile_case(_message))


@CASES.must("message-too-big", _ANCHOR, "A message over the receiver's limit closes with 1009.")
async def refuses_big_message(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    limit = peer.welcome.max_message_bytes
    if limit > _LARGEST_TESTED_LIMIT:
        raise NotTested(f"the limit is {limit} bytes")
    await peer.send_raw(bytes(limit + 1))
    return await peer.expect_close(1009)


@CASES.should(
    "message-before-hello",
    "limits",
    "Before `Hello` a message of more than 1 MiB closes with 1009.",
)
async def refuses_big_message_before_hello(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    await peer.expect(Challenge)
    await peer.send_raw(bytes(MIN_MESSAGE_TO_COORDINATOR_BYTES + 1))
    return await peer.expect_close(1009)


@CASES.must("message-largest", "welcome", "A message of `max_message_bytes` is accepted.")
async def accepts_largest_message(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    limit = min(peer.welcome.max_message_bytes, _LARGEST_TESTED_LIMIT)
    overhead = len(b"\x91\x92\x3f\xc6\x00\x00\x00\x00")
    await peer.send_raw(msgspec.msgpack.encode([[_UNKNOWN, bytes(limit - overhead)]]))
    await peer.expect_open()
    return f"{limit} bytes in one message"


@CASES.must("survives-malformed", _ANCHOR, "After malformed input other connections are served.")
async def survives_malformed(coordinator: CoordinatorUnderTest) -> str:
    other = await coordinator.connect()
    job = await coordinator.start(other)
    for message in (b"\x91" * 2**20, b"\x91\x92\x63\xc6\xff\xff\xff\xff", b"\xc1"):
        peer = await coordinator.connect()
        await peer.send_raw(message)
        await peer.expect_close(1002)
    await job.write(b"data: [DONE]\n\n")
    await job.finish()
    await coordinator.run_job(other)
    return "a running job was finished, and another one run"


@CASES.must("integer-forms", _ANCHOR, "Integers and lengths may use any wide enough encoding.")
async def accepts_long_forms(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    name = peer.process.model_id.encode()
    str_32 = b"\xdb" + len(name).to_bytes(4, "big") + name
    short = msgspec.msgpack.encode(offer(""))
    # The second byte of `short` is the empty model id.
    long_offer = short[:1] + str_32 + short[2:]
    revision_64 = b"\xcf" + (9).to_bytes(8, "big")
    models_32 = b"\xdd" + (1).to_bytes(4, "big") + long_offer
    type_16 = b"\xcd" + _CAPABILITIES.to_bytes(2, "big")
    limits_16 = b"\xdc" + (2).to_bytes(2, "big") + b"\xd3" + (16).to_bytes(8, "big") + b"\xc0"
    await peer.send_raw(b"\xdc\x00\x01\x94" + type_16 + revision_64 + models_32 + limits_16)
    await peer.settle()
    await coordinator.run_job(peer)
    return "Capabilities with longer encodings than necessary were accepted"


@CASES.must("integer-largest", _ANCHOR, "Integers up to 2^53 - 1 are accepted.")
async def accepts_largest_integer(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send(Capabilities(MAX_INTEGER, [], AgentLimits(MAX_INTEGER)))
    return await peer.expect_open()


@CASES.must("integer-too-large", _ANCHOR, "An integer of 2^53 closes with 1002.")
async def refuses_too_large_integer(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAINING, MAX_INTEGER + 1]]))
    return await peer.expect_close(1002)


@CASES.must("integer-fraction", _ANCHOR, "A fraction in an integer field closes with 1002.")
async def refuses_fraction(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAINING, 1.5]]))
    return await peer.expect_close(1002)


@CASES.must("extension-unknown", _ANCHOR, "Extension types in unknown fields are skipped.")
async def skips_extension_types(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    extension = msgspec.msgpack.Ext(5, b"x")
    await peer.send_raw(msgspec.msgpack.encode([[_DRAINING, 60_000, extension]]))
    await peer.send_raw(msgspec.msgpack.encode([[_UNKNOWN, extension]]))
    return await peer.expect_open()


@CASES.must("extension-known", _ANCHOR, "An extension type in a known field closes with 1002.")
async def refuses_extension_type(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send_raw(msgspec.msgpack.encode([[_DRAINING, msgspec.msgpack.Ext(5, b"x")]]))
    return await peer.expect_close(1002)


@CASES.must("violation-order", _ANCHOR, "The frames before a violation have taken effect.")
async def applies_frames_before_violation(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    whole, broken = await coordinator.submit(peer), await coordinator.submit(peer)
    data = b"data: [DONE]\n\n"
    job_id = whole.job_id
    frames: list[AgentFrame] = [started(job_id), chunk(job_id, 0, data), result(job_id, len(data))]
    await peer.send(*frames, chunk(broken.job_id, 0, data))
    closed = await peer.expect_close(1002)
    received, complete = await whole.client.read_all()
    require(complete and received == data, f"the client received {len(received)} bytes")
    return f"a job ended by the same message was delivered; {closed}"


@CASES.must("defaults", "versions", "Absent trailing fields have their defaults.")
async def uses_defaults(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    short_offer = msgspec.to_builtins(offer(peer.process.model_id))[:7]
    await peer.send_raw(msgspec.msgpack.encode([[_CAPABILITIES, 2, [short_offer], [16]]]))
    await peer.settle()
    await coordinator.run_job(peer)
    return "Capabilities without optional fields were accepted"


@CASES.must("names-unknown", "versions", "An unknown error code closes no connection.")
async def accepts_unknown_names(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    job = await coordinator.submit(peer)
    await job.fail("x-conformance-code")
    response = await job.client.response()
    await peer.settle()
    require(response.status >= 500, f"the client received HTTP {response.status}")
    return f"an unknown error code: HTTP {response.status} for the client"


@CASES.must("grouping", _ANCHOR, "The grouping of frames into messages has no meaning.")
async def ignores_grouping(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    job = await coordinator.submit(peer)
    data = b"data: [DONE]\n\n"
    job_id = job.job_id
    frames: list[AgentFrame] = [
        started(job_id),
        chunk(job_id, 0, data[:5]),
        chunk(job_id, 5, data[5:]),
    ]
    await peer.send(*frames, result(job_id, len(data)))
    await peer.expect(Ack, job_id, where=lambda ack: ack.final)
    received, whole = await job.client.read_all()
    require(whole and received == data, f"the client received {len(received)} bytes")
    return "a whole response in one message"
