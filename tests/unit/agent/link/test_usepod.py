import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.agent.identity.key import Identity
from provider_agent.agent.link.advice import explain_disconnect
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause, Retry, next_attempt
from provider_agent.agent.link.close_reason import explain_rejection
from provider_agent.agent.link.usepod import UsepodLinks
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer, Rejected
from provider_agent.protocol.limits import MIB


@pytest.fixture
def links() -> UsepodLinks:
    return UsepodLinks(Identity(Ed25519PrivateKey.generate()))


def offer(*model_ids: str) -> Capabilities:
    offers = [ModelOffer(one, [], [], None, True, "vllm", 1) for one in model_ids]
    return Capabilities(1, offers, AgentLimits(1))


def test_withheld_models_are_logged_when_they_change(
    links: UsepodLinks, caplog: pytest.LogCaptureFixture
) -> None:
    for frame in (offer("a"), offer("a"), offer("a", "b"), offer(), offer("a")):
        links.new_dialect().encode([frame])

    logged = [one for one in caplog.records if one.message == "models without a price withheld"]
    assert len(logged) == 3


def test_each_skipped_type_is_logged_once_and_their_number_is_bounded(
    links: UsepodLinks, caplog: pytest.LogCaptureFixture
) -> None:
    for number in [0, 0, *range(1000)]:
        links.new_dialect().decode_from_coordinator(f'{{"type": "kind {number}"}}', MIB)

    logged = [one for one in caplog.records if one.message == "skipping unknown frames"]
    assert len(logged) == 64


def test_auth_failed_is_retried_slowly_and_comes_with_advice() -> None:
    disconnect = explain_rejection(Rejected("auth_failed", "unknown key", 60_000))
    waits = [
        next_attempt(disconnect, 0.0, None, lambda jitter=jitter: jitter)  # type: ignore[misc]
        for jitter in (0.0, 0.999)
    ]

    detail = "rejected by the coordinator: auth_failed: unknown key"
    assert disconnect == Disconnect(DisconnectCause.AUTH_FAILED, detail, 60.0)
    assert all(isinstance(wait, Retry) and 60 <= wait.after_s <= 120 for wait in waits)
    assert "enrollment_code" in explain_disconnect(disconnect).what_to_do
