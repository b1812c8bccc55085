"""Cases about the upgrade and the handshake.

Each case of `NEW_CONNECTION` needs a new connection, on which `Challenge` was not sent yet. The
cases of `OPEN_VIOLATIONS` end an open connection.
"""

import asyncio
import hashlib
from typing import Final

from msgspec.structs import replace

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList, NotHeld, NotTested, require
from provider_agent.conformance.coordinator_peer import (
    CoordinatorPeer,
    new_job,
    new_welcome,
)
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.protocol.frames import Challenge, Heartbeat, Hello, Rejected, ResumedJob
from provider_agent.protocol.limits import (
    MAX_INTEGER,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
    MIN_WINDOW_BYTES,
    SUBPROTOCOL,
)
from provider_agent.protocol.receipts import FEATURE, ReceiptContent

CASES = CaseList[AgentUnderTest]()
NEW_CONNECTION = CaseList[AgentUnderTest]()

_HANDSHAKE: Final = "handshake"
_ANY_ID: Final = b"\xee" * 16


@CASES.must("subprotocol-offered", "transport", "The agent offers the subprotocol.")
async def offers_subprotocol(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    offered = _header(peer, "Sec-WebSocket-Protocol")
    require(SUBPROTOCOL in offered, f"offered {offered!r}")
    return f"offered {offered}"


@CASES.should("no-compression", "transport", "The agent does not offer compression.")
async def offers_no_compression(agent: AgentUnderTest) -> str:
    offered = _header(await agent.connected(), "Sec-WebSocket-Extensions")
    require("permessage-deflate" not in offered, f"offered {offered!r}")
    return "no extension offered" if not offered else f"offered {offered}"


def _header(peer: CoordinatorPeer, name: str) -> str:
    request = peer.socket.request
    return "" if request is None else ", ".join(request.headers.get_all(name))


@CASES.must("hello", "what-is-signed", "`Hello` signs the dialed address and the nonce.")
async def signs_hello(agent: AgentUnderTest) -> str:
    peer = await agent.connected()  # `authenticate` has verified the signature
    return f"signed by {peer.hello.public_key.hex()[:16]}…"


@CASES.must("capabilities-after-welcome", _HANDSHAKE, "`Capabilities` follow `Welcome`.")
async def sends_capabilities(agent: AgentUnderTest) -> str:
    models = (await agent.connected()).capabilities.models
    return f"models: {len(models)}"


@CASES.must("heartbeat", "heartbeat", "A `Heartbeat` is sent at the interval of `Welcome`.")
async def sends_heartbeats(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    within_ms = peer.heartbeat_ms + 1000
    for _ in range(peer.heartbeats):
        await peer.expect(Heartbeat, within_s=within_ms / 1000)
    return f"{peer.heartbeats}, less than {within_ms} ms apart"


@NEW_CONNECTION.must("hello-only", _HANDSHAKE, "Before `Welcome` the agent sends only `Hello`.")
async def sends_only_hello(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await asyncio.sleep(SILENCE_S)
    require(not peer.received, "a frame before Challenge")
    await peer.authenticate()
    await asyncio.sleep(SILENCE_S)
    require(len(peer.received) == 1, "a frame between Hello and Welcome")
    await peer.admit()
    await peer.run_job()
    return "one Hello"


@NEW_CONNECTION.must("welcome-first", _HANDSHAKE, "`Welcome` before `Challenge` closes with 1002.")
async def refuses_early_welcome(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await peer.send(new_welcome())
    return await peer.expect_close(1002)


@NEW_CONNECTION.must("challenge-twice", _HANDSHAKE, "A second `Challenge` closes with 1002.")
async def refuses_second_challenge(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await peer.authenticate()
    await peer.send(Challenge(peer.nonce, "again"))
    return await peer.expect_close(1002)


@NEW_CONNECTION.must("job-before-welcome", _HANDSHAKE, "A job before `Welcome` closes with 1002.")
async def refuses_early_job(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await peer.authenticate()
    job = new_job("any")
    await peer.send(job.header, job.piece(0, len(job.request)))
    return await peer.expect_close(1002)


async def _refuses_welcome(agent: AgentUnderTest, **fields: object) -> str:
    peer = await agent.dialed()
    await peer.authenticate()
    await peer.send(new_welcome(**fields))  # type: ignore[arg-type]
    return await peer.expect_close(1002)


for _id, _what, _fields in (
    ("welcome-window", "a window below 16384", {"window_bytes": MIN_WINDOW_BYTES - 1}),
    (
        "welcome-max-message",
        "`max_message_bytes` below 1048576",
        {"max_message_bytes": MIN_MESSAGE_TO_COORDINATOR_BYTES - 1},
    ),
    ("welcome-heartbeat", "a heartbeat below 100 ms", {"heartbeat_ms": 99}),
    (
        "welcome-resumed",
        "a job in `resumed` that `Hello` did not list",
        {"resumed": [ResumedJob(_ANY_ID, 0)]},
    ),
    ("welcome-features", "a feature that `Hello` did not list", {"features": ["x-conformance"]}),
):
    NEW_CONNECTION.add(
        _id,
        "welcome",
        f"A `Welcome` with {_what} closes with 1002.",
        lambda agent, fields=_fields: _refuses_welcome(agent, **fields),  # type: ignore[misc]
    )


@NEW_CONNECTION.must("welcome-largest", "welcome", "The largest numbers in `Welcome` are accepted.")
async def accepts_largest_numbers(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await peer.authenticate()
    await peer.admit(new_welcome(window_bytes=MAX_INTEGER, max_message_bytes=MAX_INTEGER))
    await peer.run_job()
    return "a window of 2^53 - 1 bytes"


@NEW_CONNECTION.must("receipts", "receipts", "The end of a job carries a signed receipt, if asked.")
async def sends_receipts(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    hello = await peer.authenticate(features=[FEATURE])
    supported = FEATURE in hello.features
    await peer.admit(new_welcome(features=[FEATURE] if supported else []))
    if not supported:
        await peer.run_job()
        raise NotTested("the agent does not support the feature")
    job = new_job(peer.model_id)
    job = replace(job, header=replace(job.header, sign_receipt=True))
    end = await peer.read_to_end(await peer.send_job(job))
    sha256 = hashlib.sha256(peer.data(job.job_id)).digest()
    require(end.receipt is not None and end.receipt.sha256 == sha256, "no receipt, or a wrong hash")
    tokens = (end.usage.input_tokens, end.usage.output_tokens)
    content = ReceiptContent(job.job_id, job.header.model_id, sha256, *tokens)
    signature = (end.receipt and end.receipt.signature) or b""
    require(content.is_signed_by(hello.public_key, signature), "no valid signature")
    return "hash and signature are valid"


async def _refuses_when_open(
    agent: AgentUnderTest, frame: Challenge | Rejected | None = None
) -> str:
    peer = await agent.connected()
    await peer.send(frame or new_welcome())
    return await peer.expect_close(1002)


OPEN_VIOLATIONS = CaseList[AgentUnderTest]()
for _id, _name, _frame in (
    ("challenge-open", "`Challenge`", Challenge(bytes(32), "again")),
    ("welcome-open", "`Welcome`", None),
    ("rejected-open", "`Rejected`", Rejected("not_enrolled", "")),
):
    OPEN_VIOLATIONS.add(
        _id,
        _HANDSHAKE,
        f"{_name} on an open connection closes with 1002.",
        lambda agent, frame=_frame: _refuses_when_open(agent, frame),  # type: ignore[misc]
    )


@NEW_CONNECTION.must(
    "no-subprotocol", "transport", "An upgrade that selects no subprotocol is closed."
)
async def refuses_missing_subprotocol(agent: AgentUnderTest) -> str:
    open_peer = await agent.connected()
    agent.listener.selects_subprotocol = False
    try:
        await open_peer.cut()
        peer = await agent.listener.next_dialed()
    finally:
        agent.listener.selects_subprotocol = True
    await peer.send(Challenge(peer.nonce, "no subprotocol"))
    try:
        async with asyncio.timeout(peer.answer_s):
            await peer.closed.wait()
    except TimeoutError:
        raise NotHeld(f"the connection stays open for {peer.answer_s:g} s") from None
    require(not any(isinstance(f, Hello) for f in peer.received), "the agent sent Hello")
    return f"closed with {peer.close_code}"
