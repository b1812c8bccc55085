import base64
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.exceptions import MessageTooBig
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Challenge,
    Chunk,
    Draining,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    Rejected,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import KIB, MAX_DEADLINE_MS, MAX_NAME_CHARS, MAX_TEXT_CHARS, MIB
from tests.unit.protocol.usepod.dialects import DialectHarness

TEXT = "4ee1308c-f210-44b2-9bf2-628bb77a9e7a"
JOB_ID = uuid.UUID(TEXT).bytes
REQUEST = '{"model": "tiny",  "stream": true}'
SECRET = "POD-ENROLL-SECRET"


def job(job_id: object = TEXT, request: str = REQUEST, **fields: object) -> str:
    more = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    return (
        f'{{"type": "job", "job_id": {json.dumps(job_id)}, "model_id": "tiny", '
        f'"request": {request}{more}}}'
    )


def header(message: str) -> JobHeader:
    frame = DialectHarness().receive(message)[0]
    assert isinstance(frame, JobHeader)
    return frame


def running(text: str = TEXT) -> tuple[DialectHarness, bytes]:
    """Return a connection with one job, and the job's 16 bytes."""
    harness = DialectHarness()
    frame = harness.receive(job(text))[0]
    assert isinstance(frame, JobHeader)
    return harness, frame.job_id


def sent(harness: DialectHarness, frame: AgentFrame) -> Any:
    return msgspec.json.decode(harness.send(frame))


# --- jobs -----------------------------------------------------------------------------------------


def test_a_job_becomes_its_header_and_its_whole_request() -> None:
    assert DialectHarness().receive(job(format="openai", deadline_ms=20_000)) == [
        JobHeader(JOB_ID, "tiny", "openai", len(REQUEST), 20_000),
        RequestChunk(JOB_ID, 0, REQUEST.encode()),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("anthropic", "anthropic"), ("openai", "openai"), ("gemini", "openai"), (7, "openai")],
)
def test_every_format_but_anthropic_counts_as_openai(value: object, expected: str) -> None:
    assert header(job(format=value)).format == expected
    assert header(job()).format == "openai"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (0, 0),
        (10**18, MAX_DEADLINE_MS),
        (-1, 60_000),
        (10**30, MAX_DEADLINE_MS),
        ("20000", 60_000),
        (None, 60_000),
        ([], 60_000),
    ],
)
def test_a_deadline_that_is_no_count_is_a_minute(value: object, expected: int) -> None:
    assert header(job(deadline_ms=value)).deadline_ms == expected
    assert header(job()).deadline_ms == 60_000


@pytest.mark.parametrize("request_text", ["{}", '{"stream": false}', '{"stream": null, "n": 1.0}'])
def test_a_job_that_does_not_stream_is_made_to(request_text: str) -> None:
    request = DialectHarness().receive(job(request=request_text))[1]

    assert isinstance(request, RequestChunk)
    assert msgspec.json.decode(request.data) == {**json.loads(request_text), "stream": True}


@pytest.mark.parametrize("request_text", ["7", '"text"', "[1, 2]", "null", REQUEST])
def test_other_requests_are_passed_on_unchanged(request_text: str) -> None:
    request = DialectHarness().receive(job(request=request_text))[1]

    assert isinstance(request, RequestChunk)
    assert request.data == request_text.encode()


def test_numbers_and_texts_of_a_changed_request_keep_their_spelling() -> None:
    request = DialectHarness().receive(job(request='{"a": 1.50e2, "b": "\\u00e9\\/", "c": {} }'))[1]

    assert isinstance(request, RequestChunk)
    assert request.data == b'{"a":1.50e2,"b":"\\u00e9\\/","c":{},"stream":true}'


def test_a_job_that_arrives_twice_runs_once() -> None:
    harness, _ = running()

    assert harness.receive(job()) == []


def test_a_long_model_id_reaches_the_job_that_is_refused() -> None:
    message = job().replace('"tiny"', json.dumps("m" * 10_000), 1)

    assert header(message).model_id == "m" * 512


@given(st.text(min_size=1, max_size=200))
def test_a_job_id_of_any_kind_comes_back_unchanged(text: str) -> None:
    harness, job_id = running(text)

    assert sent(harness, Chunk(job_id, 0, b"x"))["job_id"] == text
    assert sent(harness, JobResult(job_id, 1, Usage(), "b", 5, 1))["job_id"] == text


# --- responses ------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=1000))
def test_a_chunk_carries_the_bytes_as_base64(data: bytes) -> None:
    harness, job_id = running()

    assert sent(harness, Chunk(job_id, 7, data)) == {
        "type": "job_chunk",
        "job_id": TEXT,
        "data": base64.b64encode(data).decode(),
    }


def test_bytes_are_acknowledged_once_in_16_kib() -> None:
    harness, job_id = running()

    for offset in range(0, 40 * KIB, KIB):
        sent(harness, Chunk(job_id, offset, bytes(KIB)))

    assert harness.dialect.take_acks() == [Ack(job_id, 16 * KIB), Ack(job_id, 32 * KIB)]
    assert harness.dialect.take_acks() == []


def test_messages_that_are_encoded_again_are_the_same() -> None:
    # The link does so if one of them is too large.
    harness, job_id = running()
    end = JobResult(job_id, 1, Usage(), "b", 5, 1)
    frames: list[AgentFrame] = [Chunk(job_id, 0, b"1"), end, Draining(5)]

    first = harness.dialect.encode_messages(frames)
    again = [one for frame in frames for one in harness.dialect.encode_messages([frame])]

    assert len(first) == 2
    assert again == first
    harness.dialect.take_acks()
    assert harness.send(end) == ""


def test_a_frame_that_the_dialect_lacks_is_not_sent() -> None:
    harness, job_id = running()

    assert harness.send(JobStarted(job_id, 200, "text/event-stream", "b")) == ""
    assert harness.dialect.take_acks() == []


def test_nothing_is_sent_for_a_cancelled_job_and_its_end_counts_as_acknowledged() -> None:
    harness, job_id = running()

    assert harness.receive(f'{{"type": "job_cancel", "job_id": "{TEXT}"}}') == [Cancel(job_id)]
    assert harness.send(Chunk(job_id, 0, b"late")) == ""
    assert harness.send(JobError(job_id, 4, "cancelled", "")) == ""
    assert harness.dialect.take_acks() == [Ack(job_id, 4, final=True)]


def test_a_cancel_of_an_unknown_or_ended_job_is_ignored() -> None:
    harness, job_id = running()
    cancel = f'{{"type": "job_cancel", "job_id": "{TEXT}"}}'
    harness.send(JobResult(job_id, 0, Usage(), "b", 0, None))
    harness.dialect.take_acks()

    assert harness.receive(cancel) == []
    assert DialectHarness().receive(cancel) == []


def test_nothing_is_sent_for_a_job_of_an_earlier_connection() -> None:
    harness, job_id = running()
    harness.reconnect()

    assert harness.send(JobResult(job_id, 0, Usage(), "b", 0, None)) == ""
    again = harness.receive(job())[0]
    assert isinstance(again, JobHeader)
    assert again.job_id != job_id
    assert sent(harness, Chunk(again.job_id, 0, b"x"))["job_id"] == TEXT


# --- the connection -------------------------------------------------------------------------------


def test_the_handshake_has_the_expected_form() -> None:
    harness = DialectHarness()
    nonce = b"n" * 32
    challenge = f'{{"type": "auth_challenge", "nonce": "{base64.b64encode(nonce).decode()}"}}'

    assert harness.receive(challenge) == [Challenge(nonce, "")]
    hello = Hello("1.2.3", b"k" * 32, b"s" * 64, SECRET)
    assert sent(harness, hello) == {
        "type": "auth_response",
        "pubkey": base64.b64encode(b"k" * 32).decode(),
        "signature": base64.b64encode(b"s" * 64).decode(),
        "agent_version": "1.2.3",
        "enrollment_code": SECRET,
    }
    known = msgspec.structs.replace(hello, enrollment_code="")
    assert "enrollment_code" not in sent(harness, known)


@pytest.mark.parametrize(
    ("message", "provider_id"),
    [
        ('{"type": "auth_ok", "provider_id": "prov_1", "more": {}}', "prov_1"),
        ('{"type": "auth_ok"}', ""),
        (json.dumps({"type": "auth_ok", "provider_id": "x" * 100_000}), "x" * MAX_NAME_CHARS),
    ],
)
def test_auth_ok_is_a_welcome_without_resumption(message: str, provider_id: str) -> None:
    (welcome,) = DialectHarness().receive(message)

    assert isinstance(welcome, Welcome)
    assert welcome.provider_id == provider_id
    assert welcome.heartbeat_ms == 15_000
    assert welcome.resume_ms == 0
    assert welcome.resumed == []


def test_auth_failed_is_a_rejection_that_is_retried_slowly() -> None:
    harness = DialectHarness()

    assert harness.receive('{"type": "auth_failed", "reason": "unknown key"}') == [
        Rejected("auth_failed", "unknown key", 60_000)
    ]
    assert harness.receive('{"type": "auth_failed"}') == [Rejected("auth_failed", "", 60_000)]
    page = "<html>" * 10_000  # of a proxy, perhaps
    assert harness.receive(json.dumps({"type": "auth_failed", "reason": page})) == [
        Rejected("auth_failed", page[:MAX_TEXT_CHARS], 60_000)
    ]


@pytest.mark.parametrize("text", ["\\ud83d", "\\uDE00", "\\ud83d\\ud83d\\ude00", "\\ud83dx"])
def test_a_job_with_a_single_surrogate_arrives_and_can_be_refused(text: str) -> None:
    # JSON allows it, and JavaScript writes it when a text is cut inside of an emoji.
    request = f'{{"messages": [{{"content": "{text}"}}]}}'
    harness = DialectHarness()
    start, chunk = harness.receive(job(request=request, deadline_ms=1234))

    assert isinstance(start, JobHeader)
    assert isinstance(chunk, RequestChunk)
    assert (start.job_id, start.deadline_ms) == (JOB_ID, 1234)
    assert json.loads(chunk.data) == json.loads(request)
    assert start.request_bytes == len(chunk.data)
    assert harness.skipped == []


NESTED = "[" * 100_000 + "]" * 100_000
WITHOUT_REQUEST = f'{{"type": "job", "job_id": "{TEXT}", "model_id": "tiny"}}'


@pytest.mark.parametrize(
    ("message", "model_id"),
    [
        pytest.param(job(request=NESTED), "tiny", id="nested too deeply"),
        pytest.param(job(request=f'["\\ud800", {NESTED}]'), "tiny", id="surrogate too"),
        pytest.param(job(request='{"x": '), "tiny", id="not JSON"),
        pytest.param(WITHOUT_REQUEST, "tiny", id="no request"),
        pytest.param(job().replace('"tiny"', "7", 1), "", id="model id that is not a string"),
        pytest.param(job().replace('"tiny"', '"a\\"b\\u00e9"', 1)[:-1], 'a"bé', id="escapes"),
    ],
)
def test_a_malformed_job_that_names_its_id_arrives_and_can_be_refused(
    message: str, model_id: str
) -> None:
    # It was skipped: the coordinator waited for its end until the deadline.
    harness = DialectHarness()
    start, chunk = harness.receive(message)

    assert isinstance(start, JobHeader)
    assert isinstance(chunk, RequestChunk)
    assert (start.job_id, start.model_id) == (JOB_ID, model_id)
    assert harness.skipped == []
    with pytest.raises((ValueError, RecursionError)):
        msgspec.json.decode(chunk.data, type=dict)
    assert harness.receive(message) == []  # one job


# --- hostile messages -----------------------------------------------------------------------------

SKIPPED = [
    ("", "malformed"),
    ("{", "malformed"),
    ("[]", "malformed"),
    ('{"type": 7}', "malformed"),
    ('{"no": "type"}', "malformed"),
    ("[" * 100_000, "malformed"),
    ('{"type": "config_update", "pricing": {}}', "config_update"),
    ('{"type": "two\\nlines"}', "two\N{REPLACEMENT CHARACTER}lines"),
    (f'{{"type": "{"t" * 1000}"}}', "t" * 64),
    ('{"type": "auth_challenge", "nonce": "not base64!"}', "malformed auth_challenge"),
    ('{"type": "auth_challenge", "nonce": 7}', "malformed auth_challenge"),
    ('{"type": "auth_ok", "provider_id": []}', "malformed auth_ok"),
    ('{"type": "job"}', "malformed job"),
    (job(7), "malformed job"),
    (job(None), "malformed job"),
    (job(""), "malformed job"),
    (job("x" * 513), "malformed job"),
    (job().replace(TEXT, "\\ud800"), "malformed"),
    ('{"type": "config_update", "text": "\\ud800"}', "malformed"),
    ('["\\ud800"]', "malformed"),
    (f'{{"type": "job", "request": {NESTED}, "job_id": "1"}}', "nested too deeply"),
    # The search for an id ends early: in a message of 16 MiB it would block the event loop.
    (WITHOUT_REQUEST.replace(",", "," + " " * 100_000), "malformed job"),
    (f'{{"type": "job_cancel", "job_id": "1", "x": {NESTED}}}', "nested too deeply"),
    ('{"type": "job_cancel", "job_id": {}}', "malformed job_cancel"),
    (b"\x00\x01", "binary"),
    (job().encode(), "binary"),
]


@pytest.mark.parametrize(("message", "kind"), SKIPPED)
def test_a_malformed_or_unknown_message_is_skipped_and_reported(
    message: bytes | str, kind: str
) -> None:
    harness = DialectHarness()

    assert harness.receive(message) == []
    assert harness.skipped == [kind]
    assert len(harness.receive(job())) == 2  # the connection goes on


def test_a_message_above_the_limit_is_an_error() -> None:
    with pytest.raises(MessageTooBig):
        DialectHarness().receive(" " * (17 * MIB))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_value_of_a_field_is_either_decoded_or_skipped(value: object) -> None:
    harness = DialectHarness()
    for message in (
        job(job_id=value),
        job(format=value, deadline_ms=value),
        json.dumps({"type": value}),
        json.dumps({"type": "auth_ok", "provider_id": value}),
        json.dumps({"type": "job_cancel", "job_id": value}),
    ):
        try:
            message.encode()
        except UnicodeEncodeError:
            continue
        assert len(harness.receive(message)) <= 2
