import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadRequest,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    ModelNotFound,
    PromptTooLong,
    Transport,
    Unreachable,
)
from provider_agent.agent.backends.failover import (
    MAX_ATTEMPTS,
    NoFailover,
    may_be_retried,
    next_route,
)
from provider_agent.agent.backends.routing import Route
from provider_agent.protocol.errors import ErrorCode
from tests.kit.scripted_backend import ScriptedBackend


def routes(*names: str) -> list[Route]:
    return [
        Route(
            ScriptedBackend(name),
            order=order,
            native=True,
            operations=frozenset(),
            in_flight=0,
            capacity=4,
        )
        for order, name in enumerate(names)
    ]


def choose(error: BackendError, serving: list[str], tried: list[str]) -> str:
    """Return the id of the chosen backend, or why none is chosen."""
    chosen = next_route(error, routes(*serving), tried, has_output=False)
    return chosen if isinstance(chosen, NoFailover) else chosen.backend_id


def status(number: int, code: ErrorCode = ErrorCode.BACKEND_ERROR) -> BadStatus:
    return BadStatus(number, b"", code)


def declared(number: int, *, retryable: bool) -> BadStatus:
    """Return an error whose response declares whether it may be retried."""
    error = status(number)
    error.retryable = retryable
    return error


OVERLOADED, TIMEOUT = ErrorCode.BACKEND_OVERLOADED, ErrorCode.BACKEND_TIMEOUT
REFUSED = Unreachable("refused")


@pytest.mark.parametrize(
    ("error", "on_another_backend", "on_the_same"),
    [
        pytest.param(REFUSED, True, False, id="refused"),
        pytest.param(Transport("reset"), True, False, id="reset"),
        pytest.param(BackendTimeout("silent"), True, False, id="silent"),
        pytest.param(InvalidResponse("empty"), True, False, id="empty stream"),
        pytest.param(
            ErrorInStream(b"", ErrorCode.BACKEND_ERROR), True, False, id="error event before output"
        ),
        pytest.param(ErrorInStream(b"", OVERLOADED), True, False, id="overloaded in stream"),
        pytest.param(ModelNotFound("gone"), True, False, id="no such model"),
        pytest.param(status(500), True, True, id="500"),
        pytest.param(status(502), True, True, id="502"),
        pytest.param(status(504, TIMEOUT), True, True, id="504"),
        pytest.param(status(524), True, True, id="524"),
        pytest.param(status(529, OVERLOADED), True, True, id="529"),
        pytest.param(status(408, TIMEOUT), True, True, id="408"),
        pytest.param(status(503, OVERLOADED), True, False, id="503"),
        pytest.param(status(429, OVERLOADED), True, False, id="429"),
        pytest.param(status(401, ErrorCode.AUTH_REJECTED_BY_BACKEND), True, False, id="401"),
        pytest.param(status(404, ErrorCode.MODEL_NOT_LOADED), True, False, id="404"),
        pytest.param(status(400, ErrorCode.BAD_REQUEST), False, False, id="400"),
        pytest.param(status(413, ErrorCode.BAD_REQUEST), False, False, id="413"),
        pytest.param(status(422, ErrorCode.BAD_REQUEST), False, False, id="422"),
        pytest.param(
            status(400, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
            False,
            False,
            id="400 with context_length_exceeded",
        ),
        pytest.param(
            status(500, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
            False,
            False,
            id="500 with context_length_exceeded",
        ),
        pytest.param(BadRequest(""), False, False, id="request is not a JSON object"),
        pytest.param(PromptTooLong(9000, 4096), False, False, id="prompt too long"),
        pytest.param(declared(500, retryable=False), False, False, id="declared not retryable"),
        pytest.param(declared(418, retryable=True), True, False, id="declared retryable"),
    ],
)
def test_which_errors_are_retried_and_on_which_backend(
    error: BackendError, on_another_backend: bool, on_the_same: bool
) -> None:
    refusal = NoFailover.NO_BACKEND if on_another_backend else NoFailover.NOT_RETRYABLE
    assert choose(error, ["a", "b"], ["a"]) == ("b" if on_another_backend else refusal)
    assert choose(error, ["a"], ["a"]) == ("a" if on_the_same else refusal)
    assert may_be_retried(error) is on_another_backend


@pytest.mark.parametrize(
    ("tried", "serving", "expected"),
    [
        (["a"], ["b", "c"], "b"),
        (["b"], ["a", "b", "c"], "a"),
        (["a", "b"], ["a", "b", "c"], "c"),
        (["a", "b"], ["a", "b"], "b"),  # all are tried: once more on the last one
        (["a", "a"], ["a"], NoFailover.NO_BACKEND),
        (["a", "a"], ["a", "b"], "b"),
        (["a", "b", "c"], ["a", "b", "c", "d"], NoFailover.ATTEMPTS_EXHAUSTED),
        (["a"], [], NoFailover.NO_BACKEND),  # the breaker of backend a has opened
    ],
)
def test_next_backend_is_chosen_or_the_reason_is_returned(
    tried: list[str], serving: list[str], expected: str
) -> None:
    assert choose(status(500), serving, tried) == expected


@pytest.mark.parametrize(
    ("unsent", "expected"), [(0, NoFailover.ATTEMPTS_EXHAUSTED), (1, "d"), (3, "d")]
)
def test_an_attempt_without_a_connection_does_not_count(unsent: int, expected: str) -> None:
    chosen = next_route(REFUSED, routes(*"abcd"), ["a", "b", "c"], unsent=unsent, has_output=False)
    assert (chosen if isinstance(chosen, NoFailover) else chosen.backend_id) == expected


def test_a_started_response_never_fails_over() -> None:
    chosen = next_route(status(500), routes("b"), ["a"], has_output=True)
    assert chosen is NoFailover.RESPONSE_STARTED


names = st.sampled_from("abcde")
errors = st.sampled_from(
    [
        REFUSED,
        status(500),
        status(429, OVERLOADED),
        BadRequest(""),
        declared(500, retryable=True),
    ]
)


@given(errors, st.lists(names, unique=True), st.lists(names, min_size=1, max_size=5), st.booleans())
def test_a_chosen_route_satisfies_every_rule(
    error: BackendError, serving: list[str], tried: list[str], has_output: bool
) -> None:
    chosen = next_route(error, routes(*serving), tried, has_output=has_output)
    if isinstance(chosen, NoFailover):
        return
    assert not has_output
    assert may_be_retried(error)
    assert len(tried) < MAX_ATTEMPTS
    assert chosen.backend_id in serving
    if chosen.backend_id in tried:
        assert error.retry_here
        assert chosen.backend_id == tried[-1]
        assert tried.count(chosen.backend_id) == 1
        assert not set(serving) - set(tried), "an untried backend comes first"
