"""Limits of API keys over several coordinators: exact reports, and how far a limit is exceeded."""

import random

import msgspec
import pytest

from provider_agent.coordinator.cluster.messages import MAX_MESSAGE_BYTES, MalformedPeerMessage
from provider_agent.coordinator.cluster.usage import (
    COMPLETE_REPORTS,
    MAX_KEYS,
    MAX_SENDERS,
    KeyUsage,
    UsageExchange,
    UsageReport,
    decode_report,
)
from provider_agent.coordinator.key_limits import KeyLimits, key_id
from provider_agent.coordinator.usage_window import SLOT_S, WINDOW_S
from tests.kit.fake_clock import FakeClock

KEY, OTHER = key_id(b"key"), key_id(b"other")
PEER, STRANGER = b"p" * 16, b"s" * 16
LONGEST_S = WINDOW_S + SLOT_S
LIMIT = 100


class Peers:
    """Coordinators with one clock; the others receive what `report` sends.

    Attributes:
        limits: those of each coordinator.
        delivers: whether reports arrive.
    """

    def __init__(self, count: int, keys: list[bytes] | None = None) -> None:
        self.clock = FakeClock()
        self.delivers = True
        self._ids: list[bytes] = []
        self.limits: list[KeyLimits] = []
        self._exchanges: list[UsageExchange] = []
        self._keys = [KEY, OTHER] if keys is None else keys
        for _ in range(count):
            self.join()

    def join(self) -> None:
        own_id = bytes([len(self._ids) + 1] * 16)
        limits = KeyLimits(self._keys, max_requests=LIMIT, max_tokens=LIMIT, clock=self.clock)
        self._ids.append(own_id)
        self.limits.append(limits)
        self._exchanges.append(
            UsageExchange(own_id, limits, lambda: {one for one in self._ids if one != own_id})
        )

    def report(self) -> list[bytes]:
        sent = []
        for sender in self._exchanges:
            messages = sender.messages()
            sent += messages
            for receiver in self._exchanges:
                for message in messages if self.delivers and receiver is not sender else []:
                    receiver.receive(message)
        return sent

    def disconnect(self) -> None:
        for exchange in self._exchanges:
            exchange.disconnected()

    def accepts(self, number: int, key: bytes = KEY) -> bool:
        return self.limits[number].accept(key) is None


def test_usage_at_one_coordinator_refuses_requests_at_the_others() -> None:
    peers = Peers(3)
    for _ in range(LIMIT):
        assert peers.accepts(0)
    peers.report()
    assert [peers.accepts(number) for number in range(3)] == [False] * 3
    assert peers.accepts(1, OTHER)
    peers.clock.now += LONGEST_S
    assert peers.accepts(2)


def test_tokens_of_all_coordinators_count_together() -> None:
    peers = Peers(2)
    peers.limits[0].add_tokens(KEY, LIMIT - 1)
    peers.report()
    assert peers.accepts(1)
    peers.limits[1].add_tokens(KEY, 1)
    peers.report()
    assert [peers.accepts(number) for number in range(2)] == [False, False]


@pytest.mark.parametrize(("coordinators", "per_round"), [(2, 3), (3, 1), (5, 4), (5, 200)])
def test_limit_is_exceeded_at_most_by_what_the_others_accept_between_two_reports(
    coordinators: int, per_round: int
) -> None:
    # docs/scaling.md states this bound. `per_round` requests reach each coordinator per report.
    pause_s = 0.5
    peers = Peers(coordinators)
    accepted: list[float] = []
    most = 0
    for _ in range(int(4 * LONGEST_S / pause_s)):
        order = list(range(coordinators)) * per_round
        random.Random(len(accepted)).shuffle(order)
        accepted += [peers.clock.now for number in order if peers.accepts(number)]
        peers.report()
        peers.clock.now += pause_s
        most = max(most, sum(at > peers.clock.now - WINDOW_S for at in accepted))
    bound = LIMIT + (coordinators - 1) * min(per_round, LIMIT)
    assert LIMIT <= most <= bound
    if per_round > LIMIT:
        assert most == coordinators * LIMIT  # the worst case happens


def test_lost_report_is_made_up_by_the_next_one_of_the_key() -> None:
    peers = Peers(2)
    for _ in range(COMPLETE_REPORTS):
        peers.report()
    peers.accepts(0)
    peers.report()
    peers.delivers = False
    for _ in range(LIMIT - 2):
        peers.accepts(0)
    peers.report()
    peers.delivers = True
    assert peers.accepts(0)
    peers.report()
    assert not peers.accepts(1)


def test_usage_during_an_interruption_is_reported_again_after_it() -> None:
    peers = Peers(2)
    for _ in range(COMPLETE_REPORTS):
        peers.report()
    peers.delivers = False
    for _ in range(LIMIT):
        peers.accepts(0)
    peers.report()
    assert peers.report() == []
    peers.disconnect()
    peers.delivers = True
    peers.report()
    assert not peers.accepts(1)


def test_only_the_usage_of_the_last_minute_counts_after_a_long_interruption() -> None:
    peers = Peers(2)
    peers.accepts(0)
    peers.report()
    peers.delivers = False
    for _ in range(10 * LIMIT):
        peers.clock.now += 1
        peers.accepts(0)
        peers.report()
    peers.delivers = True
    peers.clock.now += LONGEST_S
    peers.accepts(0)
    peers.report()
    assert peers.accepts(1)
    assert peers.limits[1].take_changed()[0].requests == 1


def test_new_coordinator_learns_what_was_used_in_the_last_minute() -> None:
    peers = Peers(2)
    for _ in range(LIMIT):
        peers.accepts(0)
    peers.report()
    peers.join()
    assert len(peers.report()) == 1
    assert not peers.accepts(2)


def test_new_coordinator_may_know_the_others_later_than_they_know_it() -> None:
    # A report overtook the snapshot of its sender, was ignored, and was not repeated.
    peers = Peers(2)
    for _ in range(LIMIT):
        peers.accepts(0)
    peers.delivers = False
    for _ in range(COMPLETE_REPORTS - 1):
        peers.report()
    peers.delivers = True
    peers.report()
    assert not peers.accepts(1)
    assert peers.report() == []


def test_nothing_is_sent_without_usage() -> None:
    peers = Peers(2)
    for _ in range(COMPLETE_REPORTS):
        assert peers.report() == []
    peers.accepts(0)
    assert len(peers.report()) == 1
    assert peers.report() == []


def test_many_keys_are_reported_in_several_messages() -> None:
    keys = [key_id(number.to_bytes(4)) for number in range(2 * MAX_KEYS + 1)]
    peers = Peers(2, keys)
    for key in keys:
        for _ in range(LIMIT):
            peers.accepts(0, key)
    sent = peers.report()
    assert [len(decode_report(message).keys) for message in sent] == [MAX_KEYS, MAX_KEYS, 1]
    assert max(map(len, sent)) < MAX_MESSAGE_BYTES / 10
    assert not any(peers.accepts(1, key) for key in keys)


# --- messages of attackers, or of defective coordinators ------------------------------------------


def _report(sender: bytes = PEER, *keys: KeyUsage) -> bytes:
    return msgspec.msgpack.encode(UsageReport(sender, list(keys)))


def _receiver(members: set[bytes]) -> tuple[UsageExchange, KeyLimits]:
    limits = KeyLimits([KEY], max_requests=LIMIT, max_tokens=None, clock=FakeClock())
    return UsageExchange(b"o" * 16, limits, lambda: members), limits


def _encoded(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        _encoded(PEER, []),
        _encoded(PEER),
        _encoded(b"short", [[KEY, 1, 1, 1, 1]]),
        _encoded(PEER, [[KEY[:-1], 1, 1, 1, 1]]),
        _encoded(PEER, [[KEY, -1, 1, 1, 1]]),
        _encoded(PEER, [[KEY, 1, 1, 1, -1]]),
        _encoded(PEER, [[KEY, 1, 1, 2, 1]]),
        _encoded(PEER, [[KEY, 1, 1, 1, 2]]),
        _encoded(PEER, [[KEY, 2**53, 1, 1, 1]]),
        _encoded(PEER, [[KEY, 1, 2**64 - 1, 1, 1]]),
        _encoded(PEER, [[KEY, 1.5, 1, 1, 1]]),
        _encoded(PEER, [[KEY, "1", 1, 1, 1]]),
        _encoded(PEER, [[KEY, 1, 1, 1, 1]] * (MAX_KEYS + 1)),
        _encoded(PEER, [[KEY, 1, 1, 1, 1]], bytes(MAX_MESSAGE_BYTES)),
    ],
    ids=lambda message: f"{len(message)} bytes",
)
def test_malformed_report_is_dropped_as_a_whole(message: bytes) -> None:
    exchange, limits = _receiver({PEER})
    with pytest.raises(MalformedPeerMessage):
        exchange.receive(message)
    assert "used=0" in repr(limits)


def test_report_of_a_coordinator_that_is_not_in_the_view_is_ignored() -> None:
    exchange, limits = _receiver({PEER})
    exchange.receive(_report(STRANGER, KeyUsage(KEY, LIMIT, 0, LIMIT, 0)))
    assert limits.accept(KEY) is None
    assert "senders=0" in repr(exchange)


def test_keys_that_are_unknown_here_are_ignored() -> None:
    exchange, limits = _receiver({PEER})
    unknown = [key_id(number.to_bytes(4)) for number in range(MAX_KEYS)]
    exchange.receive(_report(PEER, *(KeyUsage(key, 1, 1, 1, 1) for key in unknown)))
    assert "used=0" in repr(limits)


def test_highest_counts_block_a_key_for_no_longer_than_a_minute() -> None:
    exchange, limits = _receiver({PEER})
    most = 2**53 - 1
    exchange.receive(_report(PEER, *[KeyUsage(KEY, most, most, most, most)] * MAX_KEYS))
    reached = limits.accept(KEY)
    assert reached is not None
    assert reached.wait_s == LONGEST_S


def test_repeated_and_older_reports_count_once() -> None:
    exchange, limits = _receiver({PEER})
    for requests in (10, 20, 20, 20):
        exchange.receive(_report(PEER, KeyUsage(KEY, requests, 0, requests, 0)))
    for _ in range(LIMIT - 20):
        assert limits.accept(KEY) is None
    assert limits.accept(KEY) is not None


def test_totals_of_many_coordinators_are_forgotten() -> None:
    members = {number.to_bytes(16) for number in range(3 * MAX_SENDERS)}
    exchange, _ = _receiver(members)
    for member in members:
        exchange.receive(_report(member, KeyUsage(KEY, 1, 0, 1, 0)))
    assert f"senders={MAX_SENDERS}>" in repr(exchange)
