import pytest

from provider_agent.agent.link.advice import explain_disconnect
from provider_agent.agent.link.backoff import FATAL_HINTS, Disconnect, DisconnectCause


@pytest.mark.parametrize("cause", list(DisconnectCause))
def test_every_cause_has_advice(cause: DisconnectCause) -> None:
    explained = explain_disconnect(Disconnect(cause, "detail"))
    assert explained.problem == "detail"
    assert explained.what_to_do


@pytest.mark.parametrize("own", ["check the spelling", "set [coordinator] token_file"])
def test_advice_in_the_detail_comes_first(own: str) -> None:
    disconnect = Disconnect(DisconnectCause.UNAUTHORIZED, f"HTTP status 401; {own}")
    assert explain_disconnect(disconnect) == ("HTTP status 401", own)


def test_text_of_a_coordinator_is_no_advice() -> None:
    disconnect = Disconnect(DisconnectCause.REJECTED, "rejected: x; check your mail")
    explained = explain_disconnect(disconnect)
    assert explained == ("rejected: x; check your mail", FATAL_HINTS[DisconnectCause.REJECTED])
    lost = Disconnect(DisconnectCause.LOST, "the coordinator closed the connection: 1000; check x")
    assert explain_disconnect(lost).problem == lost.detail


def test_unusable_file_is_to_be_corrected() -> None:
    disconnect = Disconnect(DisconnectCause.LOST, "[coordinator] ca_file x: no certificate")
    assert explain_disconnect(disconnect).what_to_do.startswith("correct that file")


def test_configured_proxy_is_worth_a_check() -> None:
    lost = Disconnect(DisconnectCause.LOST, "no connection")
    assert "proxy" in explain_disconnect(lost, has_proxy=True).what_to_do
    assert "proxy" not in explain_disconnect(lost).what_to_do


def test_address_that_worked_before_needs_no_correction() -> None:
    lost = Disconnect(DisconnectCause.LOST, "the connection broke")
    assert explain_disconnect(lost, worked_before=True).what_to_do == ""
    expired = Disconnect(DisconnectCause.BAD_CERTIFICATE, "expired")
    assert explain_disconnect(expired, worked_before=True).what_to_do
