import pytest

from provider_agent.coordinator.agents.close_reason import closed_by_agent, link_lost


@pytest.mark.parametrize(
    ("code", "is_malformed", "keep_session"),
    [
        (None, False, True),
        (1006, False, True),
        (1008, False, True),
        (1011, False, True),
        (4999, False, True),
        (1000, False, False),
        (1001, False, False),
        (1002, False, False),
        (1009, False, False),
        (None, True, False),
        (1006, True, False),
    ],
)
def test_close_code_and_malformed_message_decide_whether_the_session_is_kept(
    code: int | None, is_malformed: bool, keep_session: bool
) -> None:
    close_reason = closed_by_agent(code, is_malformed=is_malformed)
    assert close_reason.keep_session is keep_session
    assert close_reason.close_code == (code or 1006)


def test_lost_link_keeps_the_session() -> None:
    assert link_lost("silent").keep_session
