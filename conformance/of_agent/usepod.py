"""Which cases apply to an agent of the dialect `usepod`, and the cases that only it has.

The dialect names no rules of its own, so these are what docs/usepod.md promises of an agent.
"""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Final

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList, NotTested, require
from provider_agent.conformance.coordinator_peer import CoordinatorPeer, new_job, new_raw_job
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.conformance.usepod_cases import ANCHOR, VersionOneCases
from provider_agent.conformance.usepod_peer import UsepodCoordinatorPeer
from provider_agent.protocol.frames import Cancel, JobError, JobResult, ModelOffer

_APPLICABLE: Final = {
    "no-compression": "The agent does not offer compression.",
    "hello": "`auth_response` signs the nonce.",
    "capabilities-after-welcome": "`capabilities` follow `auth_ok`.",
    "heartbeat": "A `heartbeat` is sent every 15 seconds.",
    "hello-only": "Before `auth_ok` the agent sends only `auth_response`.",
    "welcome-first": "`auth_ok` before `auth_challenge` ends the connection.",
    "challenge-twice": "A second `auth_challenge` before `auth_ok` ends the connection.",
    "job-before-welcome": "A job before `auth_ok` ends the connection.",
    "job": "A job that succeeds has its bytes and a `job_done`.",
    "model-unknown": "A model that is not served: `model_not_loaded`.",
    "deadline-zero": "A job with `deadline_ms` 0 ends with `backend_timeout`.",
    "cancel-late": "A `job_cancel` after the end, or of an unknown job, is ignored.",
    "traffic-messages": "Every message is text and a well-formed JSON object of a known type.",
    "traffic-states": "`auth_response` is sent once, and first.",
    "traffic-jobs": "A job has one end, and nothing after it.",
}
_NO_SUBPROTOCOL: Final = "the dialect has no subprotocol"
_NO_FIELDS: Final = "`auth_ok` has no such field"
_OPEN: Final = "an open connection skips what it does not expect"
_ONE_MESSAGE: Final = "a job is one message"
_NO_CODE: Final = "the dialect has no code for it"
_NO_WINDOW: Final = "the dialect has no window and no acknowledgements"
_NO_RESUMPTION: Final = "the dialect has no resumption"

_REASONS: Final[dict[str, Sequence[str]]] = {
    _NO_SUBPROTOCOL: ("subprotocol-offered", "no-subprotocol"),
    _NO_FIELDS: (
        "welcome-window",
        "welcome-max-message",
        "welcome-heartbeat",
        "welcome-resumed",
        "welcome-features",
        "welcome-largest",
    ),
    "the dialect has no receipts": ("receipts", "traffic-features"),
    _OPEN: ("challenge-open", "welcome-open", "rejected-open"),
    _ONE_MESSAGE: (
        "job-large",
        "pieces-repeated",
        "pieces-unknown",
        "pieces-gap",
        "pieces-empty",
        "pieces-beyond",
        "request-empty",
        "deadline-request",
        "cancel-request",
    ),
    "see usepod-job-twice; the dialect names no number of ids": ("job-twice", "job-remembered"),
    "every other format counts as openai": ("format-unknown", "names-unknown"),
    "see usepod-request; other texts are no message": ("request-invalid",),
    "see usepod-capacity; a job cannot wait for its request": ("capacity",),
    "nothing holds a response back, so a job may end before any deadline": ("deadline",),
    "see usepod-cancel; a cancelled job has no end": ("cancel", "end-backend"),
    _NO_WINDOW: (
        "window",
        "window-continues",
        "window-per-job",
        "ack-lower",
        "ack-unknown",
        "ack-repeated",
        "ack-beyond",
        "ack-final-early",
        "ack-final-offset",
    ),
    _NO_RESUMPTION: (
        "resume-running",
        "resume-zero",
        "resume-no-ack",
        "resume-not-named",
        "resume-ended",
        "resume-delivered",
        "resume-ack-at-once",
        "resume-ack-ahead",
        "resume-cancelled",
        "resume-request",
        "resume-offset",
        "resume-off",
    ),
    "the dialect has no drain of the coordinator": ("drain",),
    "the dialect has no notices": ("notices",),
    "the dialect has no response headers": ("traffic-headers",),
    "no list of the dialect has unique entries": ("traffic-lists",),
    "the dialect names no limit of a message": ("message-too-big", "message-largest"),
}

VERSION_1: Final = VersionOneCases(_APPLICABLE, _REASONS)

CASES = CaseList[AgentUnderTest]()


async def _connected(agent: AgentUnderTest) -> UsepodCoordinatorPeer:
    peer = await agent.connected()
    assert isinstance(peer, UsepodCoordinatorPeer)  # noqa: S101 - for the type checker
    return peer


def _prices(offer: ModelOffer) -> tuple[int | None, int | None]:
    return offer.input_price_per_1m, offer.output_price_per_1m


def _ends(peer: CoordinatorPeer, job_id: bytes) -> int:
    return len(peer.received_of(JobResult, job_id)) + len(peer.received_of(JobError, job_id))


@CASES.must("usepod-upgrade", ANCHOR, "The upgrade has no subprotocol and no `Authorization`.")
async def sends_plain_upgrade(agent: AgentUnderTest) -> str:
    request = (await agent.connected()).socket.request
    headers = {} if request is None else dict(request.headers.raw_items())
    names = [name for name in headers if name.lower() in _UNEXPECTED_HEADERS]
    require(not names, f"it has {', '.join(names)}")
    return "neither"


_UNEXPECTED_HEADERS: Final = frozenset({"sec-websocket-protocol", "authorization"})


@CASES.must("usepod-prices", ANCHOR, "Every offered model has both prices, and is offered once.")
async def offers_prices(agent: AgentUnderTest) -> str:
    offers = (await agent.connected()).capabilities.models
    free = [one.model_id for one in offers if not all(_prices(one))]
    require(not free, f"without a price: {', '.join(free)}")
    require(len({one.model_id for one in offers}) == len(offers), "a model twice")
    return f"models: {len(offers)}"


@CASES.must("usepod-job-twice", ANCHOR, "A job id that arrives again on a connection runs once.")
async def runs_job_once(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    job = await agent.long_job(peer)
    await peer.send_job(job)
    await peer.read_to_end(job)
    await peer.send_job(job)
    await peer.expect_silence(job)
    require(_ends(peer, job.job_id) == 1, f"{_ends(peer, job.job_id)} ends")
    return "one end, although the job was sent again while it ran and after its end"


@CASES.must("usepod-request", ANCHOR, "A request that is not a JSON object is refused.")
async def refuses_invalid_request(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    for request in (b"[]", b"7", b"null", b'"text"'):
        job = await peer.send_job(new_raw_job(peer.model_id, request))
        await peer.expect_error(job, "bad_request")
    return "an array, a number, null and a text: internal"


@CASES.must("usepod-fields-missing", ANCHOR, "A job needs no `format` and no `deadline_ms`.")
async def accepts_missing_fields(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    job = new_job(peer.model_id)
    message = {
        "type": "job",
        "job_id": str(uuid.UUID(bytes=job.job_id)),
        "model_id": peer.model_id,
        "request": json.loads(job.request),
        "more": {},
    }
    peer.adopt(job)
    await peer.send_encoded(json.dumps(message), job.header)
    await peer.read_to_end(job)
    return "a job without them was run"


@CASES.must("usepod-stream", ANCHOR, "A chat job is answered with an event stream.")
async def makes_jobs_stream(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    for extra in ({}, {"stream": False}, {"stream": None}):
        request = {"messages": [{"role": "user", "content": "hello"}], **extra}
        job = await peer.send_job(new_raw_job(peer.model_id, json.dumps(request).encode()))
        await peer.read_to_end(job)
        data = peer.data(job.job_id)
        require(data.startswith(b"data:"), f"the answer begins with {data[:20]!r}")
    return "also if the request does not ask for one"


@CASES.must("usepod-usage", ANCHOR, "A result has the tokens, although the job did not ask.")
async def reports_usage(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    request = {"messages": [{"role": "user", "content": "hello"}], "stream_options": {}}
    job = await peer.send_job(new_raw_job(peer.model_id, json.dumps(request).encode()))
    usage = (await peer.read_to_end(job)).usage
    if not usage.input_tokens and not usage.output_tokens:
        raise NotTested("the server reports no tokens")
    return f"{usage.input_tokens} and {usage.output_tokens} tokens"


@CASES.must("usepod-capacity", ANCHOR, "A job over the limit: `out_of_capacity`, at once.")
async def refuses_beyond_capacity(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    limit = peer.capabilities.limits.max_concurrent
    if limit > _MAX_TESTED_CAPACITY:
        raise NotTested(f"the agent accepts {limit} jobs at once")
    for _ in range(limit):
        await peer.send_job(new_job(peer.model_id, words=peer.long_words))
    extra = await peer.send_job(new_job(peer.model_id))
    await peer.expect_error(extra, "out_of_capacity")
    await peer.end_jobs()
    await asyncio.sleep(SILENCE_S)  # no message says when a cancelled job has ended
    await peer.run_job()
    return f"refused beside {limit} running jobs; after they were cancelled another job was run"


_MAX_TESTED_CAPACITY: Final = 64


@CASES.must("usepod-cancel", ANCHOR, "After `job_cancel` nothing more is sent for the job.")
async def cancels(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    job = await agent.long_job(peer)
    await peer.send(Cancel(job.job_id))
    await peer.expect_silence(job)
    require(_ends(peer, job.job_id) == 0, "it has an end")
    return f"nothing after {len(peer.data(job.job_id))} bytes"


@CASES.must("usepod-skipped", ANCHOR, "What the agent does not know or expect is skipped.")
async def skips_messages(agent: AgentUnderTest) -> str:
    peer = await _connected(agent)
    for message in _SKIPPED:
        await peer.send_raw(message)
    await peer.run_job()
    return f"after {len(_SKIPPED)} messages a job was run"


_SKIPPED: Final[Sequence[bytes | str]] = (
    "",
    "{",
    "[]",
    '{"type": 7}',
    '{"type": "config_update", "pricing": {}}',
    '{"type": "job"}',
    '{"type": "job_cancel", "job_id": 7}',
    '{"type": "auth_ok", "provider_id": "conformance"}',
    "[" * 100_000,
    b"\x00",
    b"{}",
)


@CASES.must("usepod-lost-link", ANCHOR, "A lost link ends its jobs; the next has none of them.")
async def forgets_jobs_of_lost_link(agent: AgentUnderTest) -> str:
    lost = await _connected(agent)
    job = await agent.long_job(lost)
    await lost.cut()
    peer = await _connected(agent)
    await peer.expect_silence(job)
    await peer.send_job(job)
    await peer.read_to_end(job)
    return "the same job could be sent again"
