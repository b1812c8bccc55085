"""The agent's side of the Use Pod dialect against random input."""

import asyncio
import contextlib
import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from provider_agent.protocol.exceptions import MessageTooBig, ProtocolViolation
from provider_agent.protocol.frames import (
    CoordinatorFrame,
    JobError,
    JobHeader,
    RequestChunk,
)
from provider_agent.protocol.limits import MAX_DEADLINE_MS, MAX_NAME_CHARS
from provider_agent.protocol.usepod.session import UsepodSession
from tests.faults.scenarios.scenario import SHORT, Scale, Scenario, run_scenario
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.usepod_coordinator import ENDS, UsepodConnection
from tests.kit.usepod_harness import UsepodHarness, usepod_harness
from tests.unit.protocol.usepod.dialects import DialectHarness

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
JOB_IDS = st.sampled_from(["1", "2", "3", "00000000-0000-4000-8000-000000000004", "ö" * 200])
TYPES = st.sampled_from(
    ["job", "job_cancel", "auth_challenge", "auth_ok", "auth_failed", "config_update", "job_done"]
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "messages": JSON,
        "prompt": JSON,
        "input": JSON,
        "stream": JSON,
        "stream_options": JSON | st.fixed_dictionaries({"include_usage": JSON}),
    },
)
JOBS = st.fixed_dictionaries(
    {
        "type": st.just("job"),
        "job_id": JOB_IDS,
        "model_id": st.sampled_from(["m", "m", "hangs", "nope"]),
        "request": REQUESTS,
    },
    optional={"format": JSON | st.just("anthropic"), "deadline_ms": JSON},
)
CANCELS = st.fixed_dictionaries({"type": st.just("job_cancel"), "job_id": JOB_IDS})
FIELDS = ("job_id", "model_id", "request", "format", "deadline_ms", "nonce", "reason")
ANY_FIELDS = st.fixed_dictionaries({"type": TYPES}, optional=dict.fromkeys(FIELDS, JSON))
MESSAGES = st.one_of(
    JOBS.map(json.dumps),
    CANCELS.map(json.dumps),
    ANY_FIELDS.map(json.dumps),
    JSON.map(json.dumps),
    st.text(),
    st.binary(),
)


def check_frames(frames: list[CoordinatorFrame]) -> None:
    """Check what the jobs rely on: one whole request within the limits follows its header."""
    match frames:
        case [JobHeader() as header, RequestChunk() as request]:
            assert len(header.job_id) == 16
            assert len(header.model_id) <= MAX_NAME_CHARS
            assert 0 <= header.deadline_ms <= MAX_DEADLINE_MS
            assert 0 < header.request_bytes == len(request.data)
            assert (request.job_id, request.offset) == (header.job_id, 0)
        case _:
            assert len(frames) <= 1
            assert not any(isinstance(frame, JobHeader | RequestChunk) for frame in frames)


@given(st.lists(st.tuples(MESSAGES, st.booleans()), min_size=5, max_size=30))
@depth(2.0)
def test_any_messages_are_decoded_or_skipped(
    messages: list[tuple[bytes | str, bool]],
) -> None:
    harness = DialectHarness()
    live: set[bytes] = set()
    seen: set[bytes] = set()
    for message, ends in messages:
        STEPS_DONE["messages"] += 1
        frames = harness.receive(message)
        check_frames(frames)
        for frame in frames:
            if isinstance(frame, JobHeader):
                assert frame.job_id not in seen, "the same job twice"
                seen.add(frame.job_id)
                live.add(frame.job_id)
        if ends and live:
            end = JobError(live.pop(), 0, "internal", "failed")
            text = harness.send(end)
            assert text == "" or json.loads(text)["type"] == "job_error"
            harness.dialect.take_acks()
            assert harness.send(end) == "", "a second end"
    assert len(harness.skipped) <= len(messages)


@given(st.text() | st.binary(), st.integers(0, 100))
@depth()
def test_no_message_above_the_limit_is_decoded(message: bytes | str, limit: int) -> None:
    dialect = DialectHarness().dialect
    try:
        decoded = dialect.decode_from_coordinator(message, limit)
    except MessageTooBig:
        assert len(message) > limit
    else:
        assert len(message) <= limit or isinstance(message, bytes)
        assert decoded.frames == []
        assert len(decoded.unknown_types) <= 1


@given(st.lists(MESSAGES, max_size=20))
@depth(2.0)
def test_a_session_signs_once_and_passes_on_nothing_before_its_welcome(
    messages: list[bytes | str],
) -> None:
    signed: list[bytes] = []

    def sign(nonce: bytes) -> bytes:
        signed.append(nonce)
        return bytes(64)

    harness = DialectHarness()
    session = UsepodSession(public_key=bytes(32), sign=sign, agent_version="1")
    with contextlib.suppress(ProtocolViolation):
        for message in messages:
            for frame in harness.receive(message):
                passed = session.receive(frame)
                if isinstance(passed, JobHeader):
                    assert session.welcome is not None
    assert len(signed) <= 1
    assert len(session.to_send) == len(signed)


# --- a whole agent --------------------------------------------------------------------------------

CUT, CLOSE = "cut", "close"
ACTIONS = st.lists(MESSAGES | st.sampled_from([(CUT,), (CLOSE,)]), min_size=5, max_size=25)


async def serve_runs(backend: ScriptedBackend) -> None:
    """Answer each run; those of the model `hangs` begin and never end."""
    while True:
        run = await backend.next_run()
        run.start()
        run.send(b"data: {}\n\n")
        if run.job.model_id != "hangs":
            run.finish()


def check_messages(connection: UsepodConnection) -> None:
    """Check that no job has a message after its end."""
    ended: set[str] = set()
    for message in connection.messages:
        if "job_id" in message:
            assert message["job_id"] not in ended
        if message["type"] in ENDS:
            ended.add(message["job_id"])


async def attack(harness: UsepodHarness, actions: Iterable[object]) -> None:
    for action in actions:
        STEPS_DONE["actions"] += 1
        connection = harness.connection
        try:
            if action == (CUT,):
                connection.cut()
            elif action == (CLOSE,):
                await connection.socket.close(1012)
            else:
                assert isinstance(action, bytes | str)
                await connection.send_raw(action)
            await connection.settle()
        except (ConnectionClosed, UnicodeEncodeError):
            pass
        if connection.closed.is_set() or action in ((CUT,), (CLOSE,)):
            await connection.closed.wait()
            check_messages(connection)
            STEPS_DONE["links lost"] += 1
            await harness.reconnected()


async def end_all_jobs(harness: UsepodHarness) -> None:
    for job_id in {one.get("job_id") for one in harness.connection.messages} - {None}:
        await harness.connection.send(type="job_cancel", job_id=job_id)
    while harness.agent.service.jobs.in_flight:  # noqa: ASYNC110 - until their deadlines
        await asyncio.sleep(3600)


@given(ACTIONS)
@depth(0.5)
def test_an_agent_survives_any_messages_of_its_coordinator(actions: list[object]) -> None:
    async def run(_scale: Scale) -> str:
        backend = ScriptedBackend("scripted:http://b", model("m"), model("hangs"))
        async with usepod_harness(backend) as harness:
            serving = asyncio.create_task(serve_runs(backend))
            await attack(harness, actions)
            await asyncio.sleep(1)  # until the agent has closed a link that it refuses
            if harness.connection.closed.is_set():
                await harness.reconnected()
            await end_all_jobs(harness)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await harness.assert_serves()
            await harness.assert_no_jobs_left()
            assert "live=0" in repr(harness.agent.service.uplink._usepod._job_ids)
            check_messages(harness.connection)
        return ""

    outcome = run_scenario(Scenario("random messages", "", "", run), SHORT)
    if outcome.error is not None:
        raise outcome.error
