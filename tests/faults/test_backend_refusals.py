"""Error responses of a server: their error code, fault and retry rules, and redaction of keys."""

import logging
from dataclasses import dataclass
from typing import Final

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BadStatus,
    ErrorInStream,
    Operation,
)
from provider_agent.adapters.responses.http_errors import describe
from provider_agent.agent.backends.failover import may_be_retried
from provider_agent.agent.jobs.ends import JobReport, backend_error_end
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from tests.kit.raw_jobs import backend_at, job_for, success_reply
from tests.kit.raw_server import RawServer, Reply, stream, whole
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time

CLIENT, PROVIDER, COORDINATOR = Fault


@dataclass(frozen=True)
class Classification:
    """The classification of an error.

    Attributes:
        code: the code in the error registry.
        fault: the fault of the code.
        elsewhere: whether another backend may run the job after the error.
        here: whether the same server may run the job once more.
    """

    code: ErrorCode
    fault: Fault
    elsewhere: bool
    here: bool = False


_REJECTED_KEY = Classification(ErrorCode.AUTH_REJECTED_BY_BACKEND, PROVIDER, elsewhere=True)
_BAD_REQUEST = Classification(ErrorCode.BAD_REQUEST, CLIENT, elsewhere=False)
_NOT_LOADED = Classification(ErrorCode.MODEL_NOT_LOADED, COORDINATOR, elsewhere=True)
_OVERLOADED = Classification(ErrorCode.BACKEND_OVERLOADED, PROVIDER, elsewhere=True)
_FAILED = Classification(ErrorCode.BACKEND_ERROR, PROVIDER, elsewhere=True, here=True)
_TIMED_OUT = Classification(ErrorCode.BACKEND_TIMEOUT, PROVIDER, elsewhere=True, here=True)
_TOO_LONG = Classification(ErrorCode.CONTEXT_LENGTH_EXCEEDED, CLIENT, elsewhere=False)

STATUSES: Final = {
    307: Classification(ErrorCode.INVALID_RESPONSE, PROVIDER, elsewhere=True),
    400: _BAD_REQUEST,
    401: _REJECTED_KEY,
    402: _REJECTED_KEY,
    403: _REJECTED_KEY,
    404: _NOT_LOADED,
    408: _TIMED_OUT,
    410: _NOT_LOADED,
    413: _BAD_REQUEST,
    415: _BAD_REQUEST,
    422: _BAD_REQUEST,
    429: _OVERLOADED,
    500: _FAILED,
    501: Classification(ErrorCode.FORMAT_NOT_SUPPORTED, COORDINATOR, elsewhere=True),
    502: _FAILED,
    503: _OVERLOADED,
    504: _TIMED_OUT,
    524: _FAILED,
    529: Classification(ErrorCode.BACKEND_OVERLOADED, PROVIDER, elsewhere=True, here=True),
}


async def run_refused_job(
    operation: Operation, reply: Reply, key: str | None = None
) -> BackendError:
    """Run a job that the server answers with `reply`; return the error. The next job succeeds."""
    sink = CollectingSink()
    replies = [reply, success_reply(operation)]
    async with RawServer(replies) as server, backend_at(server.url, key=key) as backend:
        with pytest.raises(BackendError) as caught:
            await backend.execute(job_for(operation), sink)
        await backend.execute(job_for(operation), CollectingSink())
    assert len(server.requests) == 2
    assert sink.status is None
    return caught.value


def classify(error: BackendError) -> Classification:
    fault = entry_for(error.code).fault
    return Classification(error.code, fault, may_be_retried(error), error.retry_here)


@pytest.mark.parametrize("status", STATUSES)
@in_virtual_time
async def test_error_status_is_classified(status: int) -> None:
    reply = whole({"error": {"message": "no"}}, status, Retry_After=17, Location="/elsewhere")

    error = await run_refused_job(Operation.CHAT, reply)

    assert type(error) is BadStatus
    assert classify(error) == STATUSES[status]
    assert (error.status, error.retry_after_s) == (status, 17.0)
    assert error.body == b'{"error":{"message":"no"}}'
    # The server's message reaches the client only if the client caused the error.
    assert str(error).endswith(": no") is (STATUSES[status].fault is CLIENT)


TOO_LONG_ERRORS: Final = {
    "llamacpp": (
        400,
        {"code": 400, "message": "try increasing it", "type": "exceed_context_size_error"},
    ),
    "llamacpp with status 500": (
        500,
        {"code": 500, "message": "the request exceeds the context size"},
    ),
    "vllm": (400, {"message": "This model's maximum context length is 2048", "code": 400}),
    "ollama": (400, {"message": "the input length exceeds the context length", "code": None}),
    "lmstudio": (400, {"message": "greater than the context length. Try a larger one"}),
    "openrouter": (400, {"code": 400, "message": "This endpoint's maximum context length is 9"}),
    "venice": (400, {"code": "context_length_exceeded", "message": "Too long."}),
    "status 413": (413, {"message": "exceeds the model's context window"}),
}


@pytest.mark.parametrize("name", TOO_LONG_ERRORS)
@in_virtual_time
async def test_too_long_prompt_is_recognized_for_each_server(name: str) -> None:
    status, fields = TOO_LONG_ERRORS[name]

    error = await run_refused_job(Operation.CHAT, whole({"error": fields}, status))

    assert classify(error) == _TOO_LONG


@pytest.mark.parametrize("fields", [fields for _, fields in TOO_LONG_ERRORS.values()])
@in_virtual_time
async def test_too_long_prompt_with_status_200_is_recognized(fields: dict[str, object]) -> None:
    """LM Studio can report an error with status 200; then the error body alone decides."""
    error = await run_refused_job(Operation.CHAT, whole({"error": fields}))

    assert type(error) is ErrorInStream
    assert classify(error) == _TOO_LONG


@pytest.mark.parametrize(
    ("availability", "elsewhere", "retry_after_s"),
    [
        ({"retryable": False}, False, 17.0),
        ({"retryable": True, "retry_after": 3}, True, 3.0),
        ({"code": "x"}, True, 17.0),
    ],
)
@in_virtual_time
async def test_retry_advice_in_the_body_overrides_status_and_headers(
    availability: dict[str, object], elsewhere: bool, retry_after_s: float
) -> None:
    body = {"error": {"code": 503, "message": "no", "availability": availability}}

    error = await run_refused_job(Operation.CHAT, whole(body, 503, Retry_After=17))

    assert may_be_retried(error) is elsewhere
    assert error.retry_after_s == retry_after_s


# --- secrets --------------------------------------------------------------------------------------

OWN_KEY: Final = "operator-key-0123456789"
OTHER_KEYS: Final = ("sk-or-v1-0123456789abcdef", "hf_abcdefghijklmnop", "user_0123456789abcdefXYZ")
MESSAGE: Final = f"the key {OWN_KEY} ({', '.join(OTHER_KEYS)}) Bearer abcdefghijkl is wrong"
_FRAME: Final = b'data: {"error":{"message":"' + MESSAGE.encode() + b'","code":400}}\n\n'

RESPONSES_WITH_KEYS: Final = {
    **{f"status {status}": whole({"error": {"message": MESSAGE}}, status) for status in STATUSES},
    "not JSON": whole(MESSAGE.encode(), 500),
    "a key across the size limit": whole(
        b"x" * (MAX_ERROR_BODY_BYTES - 30) + MESSAGE.encode(), 500
    ),
    "a key in a header": whole({}, 400, WWW_Authenticate=MESSAGE),
    "200 with an error body": whole({"error": MESSAGE}),
    "200 with a client error": whole({"error": {"message": MESSAGE, "code": 400}}),
    "a key in a stream": stream([_FRAME]),
}


@pytest.mark.parametrize("name", RESPONSES_WITH_KEYS)
@in_virtual_time
async def test_keys_in_a_response_do_not_reach_the_error_or_the_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        error = await run_refused_job(Operation.CHAT, RESPONSES_WITH_KEYS[name], OWN_KEY)

    end = backend_error_end(JobReport(job_for(Operation.CHAT).job_id), error)
    logged = "".join(record.getMessage() + str(vars(record)) for record in caplog.records)
    text = f"{error} {error!r} {error.body!r} {vars(error)} {describe(error)} {end!r} {logged}"
    for secret in (OWN_KEY, *OTHER_KEYS, "abcdefghijkl"):
        assert secret not in text
    assert len(error.body) <= MAX_ERROR_BODY_BYTES
