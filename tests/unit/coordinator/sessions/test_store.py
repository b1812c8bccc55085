import asyncio

from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.store import DetachedSessions
from tests.kit.virtual_time import in_virtual_time


class Ended(DetachedSession):
    """Counts how often it ended."""

    ends = 0

    def end(self) -> None:
        self.ends += 1


def lost(
    key: bytes = b"k", session_id: bytes = b"s", *, instance_id: str = "one", retired: bool = False
) -> Ended:
    return Ended(
        public_key=key,
        session_id=session_id,
        instance_id=instance_id,
        retired=retired,
        draining=False,
        offers=None,
        jobs={},
        streams={},
    )


@in_virtual_time
async def test_session_is_kept_for_its_time_and_ends_once() -> None:
    parked, session = DetachedSessions(8, 60.0), lost()
    parked.add(session)
    await asyncio.sleep(59)
    assert (len(parked), session.ends) == (1, 0)
    await asyncio.sleep(2)
    assert (len(parked), session.ends) == (0, 1)
    parked.end_all()
    assert session.ends == 1


@in_virtual_time
async def test_claimed_session_never_ends_here() -> None:
    parked, session = DetachedSessions(8, 60.0), lost()
    parked.add(session)
    assert parked.claim(b"k", b"other") is None
    assert parked.claim(b"other", b"s") is None
    assert parked.claim(b"k", b"s") is session
    assert parked.claim(b"k", b"s") is None
    await asyncio.sleep(100)
    assert session.ends == 0


async def test_nothing_is_kept_for_no_time() -> None:
    parked, session = DetachedSessions(8, 0.0), lost()
    parked.add(session)
    assert (len(parked), session.ends) == (0, 1)


@in_virtual_time
async def test_one_more_than_the_bound_pushes_out_the_oldest() -> None:
    parked = DetachedSessions(2, 60.0)
    sessions = [lost(key) for key in (b"a", b"b", b"c")]
    for session in sessions:
        parked.add(session)
    assert [session.ends for session in sessions] == [1, 0, 0]
    assert list(parked) == sessions[1:]
    parked.end_all()
    assert [session.ends for session in sessions] == [1, 1, 1]


@in_virtual_time
async def test_key_that_comes_and_goes_takes_two_places_at_most() -> None:
    parked = DetachedSessions(3, 60.0)
    other = lost(b"other")
    parked.add(other)
    for number in range(100):
        parked.add(lost(session_id=bytes([number]), retired=number % 2 == 0))
    assert (len(parked), other.ends) == (3, 0)
    parked.end_all()


@in_virtual_time
async def test_place_that_was_taken_again_has_its_full_time() -> None:
    parked, older, newer = DetachedSessions(8, 60.0), lost(), lost(session_id=b"t")
    parked.add(older)
    await asyncio.sleep(50)
    parked.add(newer)
    assert older.ends == 1
    await asyncio.sleep(50)
    assert newer.ends == 0
    parked.end_all()


@in_virtual_time
async def test_new_beginning_ends_what_nobody_comes_back_for() -> None:
    for retired, instance_id, ends in (
        (False, "one", 1),
        (False, "two", 1),
        (True, "one", 1),
        (True, "two", 0),
    ):
        parked, session = DetachedSessions(8, 60.0), lost(retired=retired)
        parked.add(session)
        parked.end_unresumable(b"other", instance_id)
        assert session.ends == 0
        parked.end_unresumable(b"k", instance_id)
        assert session.ends == ends, (retired, instance_id)
        parked.end_all()


@in_virtual_time
async def test_it_knows_whom_it_holds_and_its_repr_tells() -> None:
    parked = DetachedSessions(8, 60.0)
    parked.add(lost(retired=True))
    assert parked.holds(b"k")
    assert parked.holds(b"k", b"s")
    assert not parked.holds(b"k", b"t")
    assert not parked.holds(b"other")
    assert repr(parked) == "<DetachedSessions [<DetachedSession 73 retired jobs=0>]>"
    parked.end_all()
