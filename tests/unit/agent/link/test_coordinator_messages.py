import logging

import pytest
from msgspec.structs import replace

from provider_agent.agent.link.coordinator_messages import (
    MAX_LOGGED_PER_MINUTE,
    MAX_NOTICES,
    MAX_UNROUTABLE,
    CoordinatorMessages,
    ReceivedNotice,
    UnroutableOffer,
)
from provider_agent.agent.link.sanitize import MAX_CHARS
from provider_agent.protocol.frames import Notice, RoutingStatus, UnroutableModel
from tests.kit.fake_clock import FakeClock

NOTICE = Notice("quota_exceeded", "warning", "The daily quota is used up.", "m")
PRICED = UnroutableModel("m", "price", "above the limit of $1.00")


class MessagesHarness:
    """`CoordinatorMessages` with a clock that the test sets, and its log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "provider_agent")
        self.caplog = caplog
        self.clock = FakeClock()
        self.severities: list[str] = []
        self.messages = CoordinatorMessages(self.severities.append, self.clock)

    @property
    def logged(self) -> list[tuple[int, str]]:
        return [(record.levelno, record.getMessage()) for record in self.caplog.records]

    def receive(self, *notices: Notice) -> list[ReceivedNotice]:
        for notice in notices:
            self.messages.receive_notice(notice)
        return self.messages.notices()


@pytest.fixture
def harness(caplog: pytest.LogCaptureFixture) -> MessagesHarness:
    return MessagesHarness(caplog)


def test_a_repeated_notice_is_counted_and_logged_once(harness: MessagesHarness) -> None:
    harness.receive(NOTICE, replace(NOTICE, model_id=None), NOTICE)
    harness.clock.now += 30

    first, second = harness.messages.notices()

    assert (first.model_id, first.count, first.age_s) == ("m", 2, 30.0)
    assert (second.model_id, second.count, second.severity) == (None, 1, "warning")
    assert harness.logged == [(logging.WARNING, "notice from the coordinator")] * 2
    assert harness.severities == ["warning"] * 3


def test_a_changed_message_is_logged_again(harness: MessagesHarness) -> None:
    (kept,) = harness.receive(NOTICE, replace(NOTICE, message="It is used up until noon."))

    assert (kept.message, kept.count) == ("It is used up until noon.", 2)
    assert len(harness.logged) == 2


@pytest.mark.parametrize(
    ("severity", "kept", "level"),
    [
        ("error", "error", logging.ERROR),
        ("info", "info", logging.INFO),
        ("catastrophe", "info", logging.INFO),
        ("", "info", logging.INFO),
    ],
)
def test_severity_sets_the_log_level_and_an_unknown_one_counts_as_info(
    harness: MessagesHarness, severity: str, kept: str, level: int
) -> None:
    (notice,) = harness.receive(replace(NOTICE, severity=severity))

    assert notice.severity == kept
    assert harness.logged[0][0] == level
    assert harness.severities == [kept]


def test_texts_cannot_control_a_terminal_or_fill_memory(harness: MessagesHarness) -> None:
    (notice,) = harness.receive(Notice("\x1b[2J", "info", "\n" * 4096, "m\x07"))

    assert (notice.code, notice.model_id) == ("\ufffd[2J", "m\ufffd")
    assert len(notice.message) == MAX_CHARS + 1
    assert "\n" not in notice.message


def test_a_flood_of_notices_is_bounded_in_memory_and_log(harness: MessagesHarness) -> None:
    flood = [replace(NOTICE, code=str(number)) for number in range(1000)]

    kept = harness.receive(*flood)

    assert [notice.code for notice in kept] == [str(999 - number) for number in range(MAX_NOTICES)]
    assert len(harness.logged) == MAX_LOGGED_PER_MINUTE
    harness.clock.now += 60
    harness.receive(replace(NOTICE, code="later"))
    assert len(harness.logged) == MAX_LOGGED_PER_MINUTE + 1


def test_change_of_the_unroutable_models_is_logged(harness: MessagesHarness) -> None:
    messages = harness.messages
    for revision, unroutable in enumerate([[], [PRICED], [PRICED], []]):
        messages.receive_routing(RoutingStatus(revision, unroutable))

    assert harness.logged == [
        (logging.WARNING, "offered models receive no jobs"),
        (logging.INFO, "all offered models can receive jobs"),
    ]
    assert messages.routing is not None
    assert messages.routing.revision == 3
    messages.link_ended()
    assert messages.routing is None


def test_unroutable_models_are_bounded_and_sanitized(harness: MessagesHarness) -> None:
    wrong = UnroutableModel("m\x1b", "price\n", "x" * 512)
    harness.messages.receive_routing(RoutingStatus(1, [wrong, *[PRICED] * 4095]))

    routing = harness.messages.routing
    assert routing is not None
    assert routing.unroutable_count == 4096
    assert len(routing.unroutable) == MAX_UNROUTABLE
    assert routing.unroutable[0] == UnroutableOffer("m\ufffd", "price\ufffd", f"{'x' * 500}…")
