"""Cases about the upgrade and the handshake."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from provider_agent.conformance.agent_peer import AgentPeer, offer
from provider_agent.conformance.case import CaseList, NotHeld, NotTested, require
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    Challenge,
    Hello,
    JobHeader,
    Rejected,
    RoutingStatus,
)
from provider_agent.protocol.limits import (
    HANDSHAKE_TIMEOUT_S,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
    MIN_WINDOW_BYTES,
    SUBPROTOCOL,
)

CASES = CaseList[CoordinatorUnderTest]()

_HANDSHAKE: Final = "handshake"
_KEYS: Final = "several-connections-of-one-key"
OTHER_AUTHORITY: Final = "relay.invalid:443"

MOST_SILENT_S: Final = 35.0
"""The cases that wait for three heartbeat intervals are not tested if that takes longer."""


@CASES.must("subprotocol", "transport", "The coordinator selects the subprotocol.")
async def selects_subprotocol(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    require(peer.socket.subprotocol == SUBPROTOCOL, f"selected {peer.socket.subprotocol!r}")
    return f"selected {SUBPROTOCOL}"


@CASES.must("challenge-first", _HANDSHAKE, "The first frame is `Challenge`, sent at once.")
async def sends_challenge_first(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    await peer.expect(Challenge)
    require(isinstance(peer.received[0], Challenge), f"{type(peer.received[0]).__name__} first")
    return "received Challenge"


@CASES.must("nonce-fresh", "what-is-signed", "Each connection has a fresh nonce.")
async def nonce_is_fresh(coordinator: CoordinatorUnderTest) -> str:
    nonces = {(await (await coordinator.dial()).expect(Challenge)).nonce for _ in range(4)}
    require(len(nonces) == 4, f"{len(nonces)} different nonces in 4 connections")
    return "4 connections, 4 nonces"


@CASES.must("welcome", _HANDSHAKE, "A valid `Hello` is answered with a valid `Welcome`.")
async def welcomes(coordinator: CoordinatorUnderTest) -> str:
    welcome = (await coordinator.connect()).welcome
    assert welcome is not None  # noqa: S101 - for the type checker
    require(welcome.window_bytes >= MIN_WINDOW_BYTES, f"a window of {welcome.window_bytes}")
    limit = welcome.max_message_bytes
    require(limit >= MIN_MESSAGE_TO_COORDINATOR_BYTES, f"max_message_bytes {limit}")
    require(not welcome.resumed, "a new session with resumed jobs")
    return f"window {welcome.window_bytes}, heartbeat {welcome.heartbeat_ms} ms"


async def _expect_rejection(peer: AgentPeer, hello: Hello) -> str:
    await peer.send(hello)
    answer = await peer.expect_answer()
    if not isinstance(answer, Rejected):
        raise NotHeld("received Welcome")
    await peer.expect_close(1008)
    return f"Rejected with {answer.code}, closed with 1008"


@CASES.must(
    "signature-authority",
    "what-is-signed",
    "A signature over an address that is not the coordinator's is rejected.",
)
async def rejects_other_authority(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    return await _expect_rejection(peer, await peer.hello(OTHER_AUTHORITY))


@CASES.must(
    "signature-host-header",
    "what-is-signed",
    "The `Host` header does not decide which address must be signed.",
)
async def ignores_host_header(coordinator: CoordinatorUnderTest) -> str:
    scheme = urlsplit(coordinator.target.url).scheme
    url = f"{scheme}://relay.invalid:80/provider/connect"
    peer = await coordinator.dial(url=url, to_target=True)
    return await _expect_rejection(peer, await peer.hello("relay.invalid:80"))


@CASES.must("signature-key", "what-is-signed", "A signature of another key is rejected.")
async def rejects_other_key(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    hello = await peer.hello(coordinator.target.authority, key=PrivateKey.generate())
    return await _expect_rejection(peer, hello)


@CASES.must("signature-nonce", "what-is-signed", "A signature over another nonce is rejected.")
async def rejects_other_nonce(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    hello = await peer.hello(coordinator.target.authority, nonce=bytes(32))
    return await _expect_rejection(peer, hello)


@CASES.must("frame-before-hello", _HANDSHAKE, "Another frame before `Hello` closes with 1002.")
async def refuses_frame_before_hello(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    await peer.expect(Challenge)
    await peer.send(Capabilities(1, [], AgentLimits(1)))
    return await peer.expect_close(1002)


@CASES.must("second-hello", _HANDSHAKE, "A second `Hello` closes with 1002.")
async def refuses_second_hello(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send(next(e.frame for e in peer.transcript if isinstance(e.frame, Hello)))
    return await peer.expect_close(1002)


@CASES.should("handshake-timeout", _HANDSHAKE, "A handshake that takes longer than 10 s is ended.")
async def limits_handshake(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    await peer.expect(Challenge)
    return await peer.expect_close(1008, within_s=HANDSHAKE_TIMEOUT_S + peer.answer_s)


@CASES.must(
    "heartbeat-patience",
    _HANDSHAKE,
    "No connection is closed within three silent heartbeat intervals.",
)
async def keeps_silent_connection(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    heartbeat_s = peer.welcome.heartbeat_ms / 1000
    patience_s = 2.9 * heartbeat_s
    if patience_s > MOST_SILENT_S:
        raise NotTested(f"three heartbeats take {3 * heartbeat_s:.0f} s")
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.timeout(patience_s):
            await peer.closed.wait()
    except TimeoutError:
        return f"open after {patience_s:.0f} s of silence"
    # If this process was delayed past `patience_s`, the coordinator was right to close.
    silent_s = loop.time() - start
    require(silent_s >= patience_s, f"closed after {silent_s:.1f} s")
    return f"closed after {silent_s:.0f} s"


@CASES.should(
    "heartbeat-timeout",
    "heartbeat",
    "A connection is closed after three silent heartbeat intervals.",
)
async def closes_silent_connection(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    limit_s = 3 * peer.welcome.heartbeat_ms / 1000
    if limit_s > MOST_SILENT_S:
        raise NotTested(f"three heartbeats take {limit_s:.0f} s")
    return await peer.expect_close(1008, within_s=1.2 * limit_s + peer.answer_s)


@CASES.must(
    "features-unknown",
    "features",
    "Unknown names of features are ignored.",
)
async def ignores_unknown_features(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.dial()
    code = coordinator.target.enrollment_code
    hello = await peer.hello(
        coordinator.target.authority, enrollment_code=code, features=["x-conformance"]
    )
    await peer.send(hello)
    welcome = await peer.expect_welcome()
    require(not welcome.features, f"features {welcome.features} of which none was requested")
    return "Welcome without features"


@CASES.should(
    "routing-status", "notices-and-routing", "Each `Capabilities` is answered with `RoutingStatus`."
)
async def answers_capabilities(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    await peer.send(Capabilities(7, [offer(peer.process.model_id)], AgentLimits(1)))
    status = await peer.expect(RoutingStatus, where=lambda status: status.revision == 7)
    return f"revision 7, {len(status.unroutable)} unroutable models"


@CASES.must(
    "offered-models", _HANDSHAKE, "No job is sent for a model that the agent does not offer."
)
async def sends_only_offered_models(coordinator: CoordinatorUnderTest) -> str:
    peer = await coordinator.connect()
    job = await coordinator.submit(peer)
    await job.fail("backend_error")
    await peer.advertise(revision=2)
    request = await coordinator.post(job.submitted)
    response = await request.response()
    require(response.status >= 400, f"the client received HTTP {response.status}")
    await peer.expect_none(JobHeader)
    return f"no job; the client received HTTP {response.status}"


@CASES.should(
    "key-in-use",
    _KEYS,
    "A second process with a connected key is rejected with `key_in_use`.",
)
async def rejects_key_in_use(coordinator: CoordinatorUnderTest) -> str:
    older = await coordinator.connect()
    newer = await coordinator.dial(coordinator.other_process(older, instance_id="another"))
    code = coordinator.target.enrollment_code
    hello = await newer.hello(coordinator.target.authority, enrollment_code=code)
    await newer.send(hello)
    answer = await newer.expect_answer()
    if not isinstance(answer, Rejected):
        raise NotHeld("the second process was admitted")
    await older.settle()
    require(answer.code == "key_in_use", f"rejected with {answer.code}")
    return "Rejected with key_in_use; the first connection stays open"


@CASES.should(
    "key-replaced",
    _KEYS,
    "With `replace`, the older connection finishes its jobs and receives no new ones.",
)
async def replaces_older_connection(coordinator: CoordinatorUnderTest) -> str:
    older = await coordinator.connect()
    running = await coordinator.start(older)
    process = coordinator.other_process(older, instance_id="another")
    newer = await coordinator.connect(process, replace_older=True)
    await coordinator.run_job(newer)
    await running.write(b"data: [DONE]\n\n")
    await running.finish()
    await older.expect_close(4001)
    received, whole = await running.client.read_all()
    require(whole and received == b"data: [DONE]\n\n", "the running job was not finished")
    return "the running job was finished, then the older connection closed with 4001"


@CASES.should("key-same-process", _KEYS, "A new session of the same process ends the older one.")
async def ends_older_session_of_process(coordinator: CoordinatorUnderTest) -> str:
    older = await coordinator.connect()
    newer = await coordinator.connect(older.process)
    await asyncio.gather(older.expect_close(4001), newer.settle())
    return "the older connection was closed with 4001"
