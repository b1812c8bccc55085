import pytest

from provider_agent.protocol.errors import REGISTRY, ErrorCode, ErrorEntry, Fault, entry_for
from provider_agent.protocol.limits import MAX_NAME_CHARS


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_an_entry(code: ErrorCode) -> None:
    entry = REGISTRY[code]

    assert entry.meaning.endswith(".")
    assert len(code) <= MAX_NAME_CHARS
    assert entry_for(str(code)) is entry


def test_every_registry_entry_belongs_to_a_code() -> None:
    assert set(REGISTRY) == set(ErrorCode)


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=str)
def test_errors_caused_by_the_client_are_not_retryable(entry: ErrorEntry) -> None:
    assert not (entry.fault is Fault.CLIENT and entry.retryable)


def test_errors_caused_by_the_coordinator_are_retryable() -> None:
    assert all(entry.retryable for entry in REGISTRY.values() if entry.fault is Fault.COORDINATOR)


@pytest.mark.parametrize("code", ["", "INTERNAL", "a_code_of_a_newer_agent"])
def test_an_unknown_code_counts_as_internal(code: str) -> None:
    assert entry_for(code) is REGISTRY[ErrorCode.INTERNAL]
