import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.coordinator.connections.limits import (
    FREE_BYTES,
    GRACE_S,
    MAX_BYTES,
    SHARED_BYTES,
    ConnectionCaps,
    ConnectionLimits,
)

ADDRESSES = st.sampled_from([None, "1.1.1.1", "2.2.2.2"])

CAPS = ConnectionCaps(total=6, unauthenticated=3, unauthenticated_per_address=2)


def add_all(
    limits: ConnectionLimits[str], names: str, address: str | None, interval_s: float
) -> list[str]:
    """Add connections, one per interval; return the closed ones for each."""
    return [
        "".join(limits.add(name, address or None, number * interval_s))
        for number, name in enumerate(names)
    ]


def test_oldest_unauthenticated_connection_of_an_address_is_closed_for_its_next_one() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert add_all(limits, "abc", "1.1.1.1", GRACE_S) == ["", "", "a"]
    assert list(limits.add("other", "2.2.2.2", 9)) == []
    limits.authenticated("b")
    assert list(limits.add("d", "1.1.1.1", 9)) == [], "an authenticated connection does not count"
    assert (len(limits), limits.evicted, limits.refused) == (4, 1, 0)


def test_oldest_unauthenticated_connection_is_closed_at_the_cap_for_all_addresses() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert add_all(limits, "abcde", None, GRACE_S) == ["", "", "", "a", "b"]


def test_connections_that_are_opened_at_once_are_kept_for_a_while() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert add_all(limits, "abcdef", "1.1.1.1", 0.0) == [""] * 6
    for name in "abcd":
        limits.authenticated(name)
    limits.remove("d")
    assert list(limits.add("g", "1.1.1.1", GRACE_S)) == ["e"]
    limits = ConnectionLimits[str](CAPS)
    add_all(limits, "abcdef", "1.1.1.1", 0.0)
    assert sorted(limits.add("g", "1.1.1.1", GRACE_S)) == list("abcde"), "all above the cap"


def test_at_the_total_the_oldest_connection_is_closed_however_young() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert add_all(limits, "abcdefgh", "1.1.1.1", 0.0) == [""] * 6 + ["a", "b"]


def test_unauthenticated_connections_hold_few_bytes_each_and_together() -> None:
    limits = ConnectionLimits[str](ConnectionCaps(10_000, 10_000, 10_000))
    limits.add("first", None, 0)
    assert limits.may_hold("first", MAX_BYTES)
    assert not limits.may_hold("first", 1)
    limits.authenticated("first")
    assert limits.may_hold("first", 2 * MAX_BYTES)
    count = SHARED_BYTES // FREE_BYTES
    for number in range(count + 2):
        limits.add(str(number), None, 0)
        assert limits.may_hold(str(number), FREE_BYTES), "always allowed"
    assert not limits.may_hold("0", 1)
    for number in range(1, 5):
        limits.remove(str(number))
    assert limits.may_hold("0", FREE_BYTES)


def test_connection_is_refused_when_all_have_authenticated() -> None:
    limits = ConnectionLimits[str](CAPS)
    for name in "abcdef":
        limits.add(name, name, 0)
        limits.authenticated(name)
    assert list(limits.add("g", "g", 9)) == ["g"]
    limits.remove("a")
    assert list(limits.add("h", "h", 9)) == []
    assert list(limits.add("i", "i", 9)) == ["h"], "the only one that has not authenticated"
    assert (len(limits), limits.refused) == (6, 1)


def test_nothing_is_kept_of_closed_connections() -> None:
    limits = ConnectionLimits[str](CAPS)
    add_all(limits, "abcdef", "1.1.1.1", GRACE_S)
    for name in "abcdef":
        limits.remove(name)
        limits.authenticated(name)
    assert (len(limits), limits.unauthenticated, limits._by_address) == (0, 0, {})


@pytest.mark.parametrize(
    ("open_files", "total", "unauthenticated"),
    [(100_000, 4096, 1024), (1024, 960, 480), (10, 1, 1)],
)
def test_caps_leave_room_for_other_open_files(
    open_files: int, total: int, unauthenticated: int
) -> None:
    caps = ConnectionCaps(4096, 1024, 256).within(open_files)
    assert (caps.total, caps.unauthenticated) == (total, unauthenticated)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "authenticate", "remove", "wait"]),
            st.integers(0, 30),
            ADDRESSES,
        )
    )
)
def test_counts_match_whatever_happens(steps: list[tuple[str, int, str | None]]) -> None:
    limits, open_connections, now = ConnectionLimits[int](CAPS), set[int](), 0.0
    for number, (step, target, address) in enumerate(steps, 1000):
        match step:
            case "add":
                open_connections.add(number)
                open_connections -= set(limits.add(number, address, now))
            case "authenticate":
                limits.authenticated(1000 + target)
            case "remove":
                limits.remove(1000 + target)
                open_connections.discard(1000 + target)
            case _:
                now += GRACE_S
        assert len(limits) == len(open_connections) <= CAPS.total
        assert limits.unauthenticated <= len(limits)
        by_address = [one for same in limits._by_address.values() for one in same]
        assert set(by_address) <= limits._unauthenticated.keys() <= open_connections
    for one in open_connections:
        limits.remove(one)
    assert (limits._by_address, limits.unauthenticated) == ({}, 0)
