"""What becomes of a job that a server refuses: table 0.5 of what each status means, row by row."""

import logging
from dataclasses import dataclass
from typing import Final

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    Operation,
    Transport,
    Unreachable,
)
from provider_agent.adapters.responses.http_errors import describe
from provider_agent.agent.backends.failover import may_be_retried
from provider_agent.agent.jobs.ends import backend_error_end
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from tests.kit.raw_jobs import backend_at, job_for, parametrize_formats, success_reply
from tests.kit.raw_server import RawServer, Reply, stream, whole
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time

CLIENT, PROVIDER, COORDINATOR = Fault


@dataclass(frozen=True)
class Meaning:
    """What a status means.

    Attributes:
        code: of the registry.
        fault: whose doing it is.
        elsewhere: whether another backend or provider may be tried.
        here: whether the same server may be asked once more.
    """

    code: ErrorCode
    fault: Fault
    elsewhere: bool
    here: bool = False


_KEY = Meaning(ErrorCode.AUTH_REJECTED_BY_BACKEND, PROVIDER, elsewhere=True)
_MISTAKE = Meaning(ErrorCode.BAD_REQUEST, CLIENT, elsewhere=False)
_GONE = Meaning(ErrorCode.MODEL_NOT_LOADED, COORDINATOR, elsewhere=True)
_BUSY = Meaning(ErrorCode.BACKEND_OVERLOADED, PROVIDER, elsewhere=True)
_BROKEN = Meaning(ErrorCode.BACKEND_ERROR, PROVIDER, elsewhere=True, here=True)
_SLOW = Meaning(ErrorCode.BACKEND_TIMEOUT, PROVIDER, elsewhere=True, here=True)
_TOO_LONG = Meaning(ErrorCode.CONTEXT_LENGTH_EXCEEDED, CLIENT, elsewhere=False)

STATUSES: Final = {
    307: Meaning(ErrorCode.INVALID_RESPONSE, PROVIDER, elsewhere=True),
    400: _MISTAKE,
    401: _KEY,
    402: _KEY,
    403: _KEY,
    404: _GONE,
    408: _SLOW,
    410: _GONE,
    413: _MISTAKE,
    415: _MISTAKE,
    422: _MISTAKE,
    429: _BUSY,
    500: _BROKEN,
    501: Meaning(ErrorCode.FORMAT_NOT_SUPPORTED, COORDINATOR, elsewhere=True),
    502: _BROKEN,
    503: _BUSY,
    504: _SLOW,
    524: _BROKEN,
    529: Meaning(ErrorCode.BACKEND_OVERLOADED, PROVIDER, elsewhere=True, here=True),
}


async def refusal_end(operation: Operation, reply: Reply, key: str | None = None) -> BackendError:
    """How a job ends; the backend must take the next one as if nothing had been."""
    sink = CollectingSink()
    replies = [reply, success_reply(operation)]
    async with RawServer(replies) as server, backend_at(server.url, key=key) as backend:
        with pytest.raises(BackendError) as caught:
            await backend.execute(job_for(operation), sink)
        await backend.execute(job_for(operation), CollectingSink())
    assert len(server.requests) == 2
    assert sink.status is None
    return caught.value


def meaning(error: BackendError) -> Meaning:
    fault = entry_for(error.code).fault
    return Meaning(error.code, fault, may_be_retried(error), error.retry_here)


@pytest.mark.parametrize("status", STATUSES)
@parametrize_formats
@in_virtual_time
async def test_every_status_has_its_meaning(status: int, operation: Operation) -> None:
    reply = whole({"error": {"message": "no"}}, status, Retry_After=17, Location="/elsewhere")

    error = await refusal_end(operation, reply)

    assert type(error) is BadStatus
    assert meaning(error) == STATUSES[status]
    assert (error.status, error.retry_after_s) == (status, 17.0)
    assert error.body == b'{"error":{"message":"no"}}'
    # Only what is about the client's request is said to the client.
    assert str(error).endswith(": no") is (STATUSES[status].fault is CLIENT)


WORDINGS: Final = {
    "llamacpp": (
        400,
        {"code": 400, "message": "try increasing it", "type": "exceed_context_size_error"},
    ),
    "llamacpp as 500": (500, {"code": 500, "message": "the request exceeds the context size"}),
    "vllm": (400, {"message": "This model's maximum context length is 2048", "code": 400}),
    "ollama": (400, {"message": "the input length exceeds the context length", "code": None}),
    "lmstudio": (400, {"message": "greater than the context length. Try a larger one"}),
    "openrouter": (400, {"code": 400, "message": "This endpoint's maximum context length is 9"}),
    "venice": (400, {"code": "context_length_exceeded", "message": "Too long."}),
    "too large": (413, {"message": "exceeds the model's context window"}),
}


@pytest.mark.parametrize("name", WORDINGS)
@in_virtual_time
async def test_a_prompt_that_does_not_fit_is_told_in_each_servers_words(name: str) -> None:
    status, fields = WORDINGS[name]

    error = await refusal_end(Operation.CHAT, whole({"error": fields}, status))

    assert meaning(error) == _TOO_LONG


@pytest.mark.parametrize("fields", [fields for _, fields in WORDINGS.values()])
@parametrize_formats
@in_virtual_time
async def test_the_same_words_after_200_mean_the_same(
    fields: dict[str, object], operation: Operation
) -> None:
    """As LM Studio says it; where no status is told, the words decide alone."""
    error = await refusal_end(operation, whole({"error": fields}))

    assert type(error) is ErrorInStream
    assert meaning(error) == _TOO_LONG


@pytest.mark.parametrize(
    ("availability", "elsewhere", "retry_after_s"),
    [
        ({"retryable": False}, False, 17.0),
        ({"retryable": True, "retry_after": 3}, True, 3.0),
        ({"code": "x"}, True, 17.0),
    ],
)
@in_virtual_time
async def test_a_servers_own_advice_counts_more_than_the_table(
    availability: dict[str, object], elsewhere: bool, retry_after_s: float
) -> None:
    body = {"error": {"code": 503, "message": "no", "availability": availability}}

    error = await refusal_end(Operation.CHAT, whole(body, 503, Retry_After=17))

    assert may_be_retried(error) is elsewhere
    assert error.retry_after_s == retry_after_s


@pytest.mark.parametrize("error_type", [Unreachable, Transport, BackendTimeout, InvalidResponse])
def test_what_never_was_an_answer_goes_elsewhere(error_type: type[BackendError]) -> None:
    error = error_type("no")

    assert (may_be_retried(error), error.retry_here) == (True, False)
    assert entry_for(error.code).fault is PROVIDER


# --- secrets --------------------------------------------------------------------------------------

OWN_KEY: Final = "operator-key-0123456789"
OTHER_KEYS: Final = ("sk-or-v1-0123456789abcdef", "hf_abcdefghijklmnop", "user_0123456789abcdefXYZ")
TOLD: Final = f"the key {OWN_KEY} ({', '.join(OTHER_KEYS)}) Bearer abcdefghijkl is wrong"
_FRAME: Final = b'data: {"error":{"message":"' + TOLD.encode() + b'","code":400}}\n\n'

TELLERS: Final = {
    **{f"status {status}": whole({"error": {"message": TOLD}}, status) for status in STATUSES},
    "no json": whole(TOLD.encode(), 500),
    "at the cut": whole(b"x" * (MAX_ERROR_BODY_BYTES - 30) + TOLD.encode(), 500),
    "in a header": whole({}, 400, WWW_Authenticate=TOLD),
    "200 with an error body": whole({"error": TOLD}),
    "200 with the client's mistake": whole({"error": {"message": TOLD, "code": 400}}),
    "in a stream": stream([_FRAME]),
}


@pytest.mark.parametrize("name", TELLERS)
@in_virtual_time
async def test_no_key_leaves_with_an_error(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        error = await refusal_end(Operation.CHAT, TELLERS[name], OWN_KEY)

    end = backend_error_end(job_for(Operation.CHAT), 0, error)
    logged = "".join(record.getMessage() + str(vars(record)) for record in caplog.records)
    said = f"{error} {error!r} {error.body!r} {vars(error)} {describe(error)} {end!r} {logged}"
    for secret in (OWN_KEY, *OTHER_KEYS, "abcdefghijkl"):
        assert secret not in said
    assert len(error.body) <= MAX_ERROR_BODY_BYTES
