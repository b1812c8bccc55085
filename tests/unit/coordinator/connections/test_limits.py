import pytest

from provider_agent.coordinator.connections.limits import ConnectionCaps, ConnectionLimits

CAPS = ConnectionCaps(total=4, unauthenticated=3, unauthenticated_per_address=2)


def test_oldest_unauthenticated_connection_of_an_address_is_closed_for_its_next_one() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert [limits.add(name, "1.1.1.1") for name in "abc"] == [None, None, "a"]
    assert limits.add("other", "2.2.2.2") is None
    limits.authenticated("b")
    assert limits.add("d", "1.1.1.1") is None, "an authenticated connection does not count"
    assert (len(limits), limits.evicted, limits.refused) == (4, 1, 0)


def test_oldest_unauthenticated_connection_of_all_is_closed_at_the_cap_of_all() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert [limits.add(name, name) for name in "abcde"] == [None, None, None, "a", "b"]


def test_connection_is_refused_when_all_have_authenticated() -> None:
    limits = ConnectionLimits[str](CAPS)
    for name in "abcd":
        limits.add(name, name)
        limits.authenticated(name)
    assert limits.add("e", "e") == "e"
    limits.remove("a")
    assert limits.add("f", "f") is None
    assert limits.add("g", "g") == "f", "the only one that has not authenticated"
    assert (len(limits), limits.refused) == (4, 1)


def test_connections_without_an_address_count_only_in_total() -> None:
    limits = ConnectionLimits[str](CAPS)
    assert [limits.add(name, None) for name in "abcd"] == [None, None, None, "a"]


def test_nothing_is_kept_of_closed_connections() -> None:
    limits = ConnectionLimits[str](CAPS)
    for name in "abcdef":
        limits.add(name, "1.1.1.1")
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
