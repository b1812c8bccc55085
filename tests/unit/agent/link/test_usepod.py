from pathlib import Path

import pytest

from provider_agent.agent.identity.key import Identity, load_or_create
from provider_agent.agent.link.advice import explain_disconnect
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause, Retry, next_attempt
from provider_agent.agent.link.close_reason import explain_rejection
from provider_agent.agent.link.usepod import UsepodLinks
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.frames import (
    Challenge,
    Hello,
    Rejected,
)


@pytest.fixture
def links(tmp_path: Path) -> UsepodLinks:
    return new_links(tmp_path / "identity.key")


def new_links(path: Path) -> UsepodLinks:
    return UsepodLinks(Identity(PrivateKey.generate()), path)


def sent_code(links: UsepodLinks) -> str:
    """Return the enrollment code that a new link sends."""
    session = links.new_session("POD-1")
    session.receive(Challenge(b"n" * 32, ""))
    (hello,) = session.to_send
    assert isinstance(hello, Hello)
    return hello.enrollment_code


def test_the_code_is_sent_until_the_provider_id_is_known_also_after_a_restart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "identity.key"
    load_or_create(path)
    links = new_links(path)

    assert sent_code(links) == "POD-1"
    links.welcomed("")
    assert sent_code(links) == "POD-1"
    links.welcomed("prov_1")
    assert sent_code(links) == ""
    assert sent_code(new_links(path)) == ""


def test_a_key_file_that_cannot_be_written_is_reported_and_the_id_is_used(
    links: UsepodLinks, caplog: pytest.LogCaptureFixture
) -> None:
    links.welcomed("prov_1")

    assert sent_code(links) == ""
    assert [one.message for one in caplog.records] == ["provider id not stored"]


def test_auth_failed_is_retried_slowly_and_comes_with_advice() -> None:
    disconnect = explain_rejection(Rejected("auth_failed", "unknown key", 60_000))
    waits = [
        next_attempt(disconnect, 0.0, None, lambda jitter=jitter: jitter)  # type: ignore[misc]
        for jitter in (0.0, 0.999)
    ]

    detail = "rejected by the coordinator: auth_failed: unknown key"
    assert disconnect == Disconnect(DisconnectCause.AUTH_FAILED, detail, 60.0)
    assert all(isinstance(wait, Retry) and 60 <= wait.after_s <= 120 for wait in waits)
    advice = explain_disconnect(disconnect).what_to_do
    assert (
        "enrollment_code, which is sent only as long as the key file has no provider_id" in advice
    )
    assert "that no other agent runs with it" in advice
