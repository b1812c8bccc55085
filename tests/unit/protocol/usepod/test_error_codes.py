import pytest

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.usepod.error_codes import ERROR_CODES, our_code, wire_code

KNOWN_TO_THE_COORDINATOR = {
    "out_of_capacity",
    "model_not_loaded",
    "backend_unreachable",
    "backend_timeout",
    "auth_rejected_by_backend",
    "internal",
}


def test_every_code_maps_onto_one_that_the_coordinator_knows() -> None:
    assert set(ERROR_CODES) == set(ErrorCode)
    assert set(ERROR_CODES.values()) == KNOWN_TO_THE_COORDINATOR


@pytest.mark.parametrize("code", sorted(KNOWN_TO_THE_COORDINATOR))
def test_a_code_of_both_dialects_stays_the_same(code: str) -> None:
    assert wire_code(code) == code


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("draining", "out_of_capacity"),
        ("backend_overloaded", "out_of_capacity"),
        ("format_not_supported", "model_not_loaded"),
        ("deadline_exceeded", "backend_timeout"),
        ("bad_request", "internal"),
        ("a code of a later version", "internal"),
    ],
)
def test_other_codes_become_the_nearest_one(code: str, expected: str) -> None:
    assert wire_code(code) == expected


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        ("out_of_capacity", ErrorCode.OUT_OF_CAPACITY),
        ("model_not_loaded", ErrorCode.MODEL_NOT_LOADED),
        ("backend_unreachable", ErrorCode.BACKEND_UNREACHABLE),
        ("backend_timeout", ErrorCode.BACKEND_TIMEOUT),
        ("auth_rejected_by_backend", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        ("internal", ErrorCode.INTERNAL),
        ("", ErrorCode.INTERNAL),
        ("quota_exceeded", ErrorCode.INTERNAL),
    ],
)
def test_a_received_code_is_one_of_ours(wire: str, code: ErrorCode) -> None:
    assert our_code(wire) is code


def test_every_code_that_our_agent_sends_is_known() -> None:
    for wire in set(ERROR_CODES.values()):
        assert wire_code(our_code(wire)) == wire
