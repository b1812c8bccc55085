import asyncio
from collections import OrderedDict

from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.detached_sessions import DetachedSessions
from provider_agent.coordinator.sessions.job_counts import JobCounts
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.job import Job
from tests.kit.virtual_time import in_virtual_time


class RecordingSession(DetachedSession):
    """Counts calls of `end`."""

    ends = 0

    def end(self, reason: Reason = Reason.PROVIDER_LOST) -> None:
        self.ends += 1


def new_session(
    key: bytes = b"k", session_id: bytes = b"s", *, instance_id: str = "one", retired: bool = False
) -> RecordingSession:
    return RecordingSession(
        public_key=key,
        session_id=session_id,
        instance_id=instance_id,
        retired=retired,
        draining=False,
        offers=None,
        jobs={},
        streams={},
        counts=JobCounts(),
        ended=OrderedDict(),
    )


@in_virtual_time
async def test_session_expires_and_ends_once() -> None:
    store, session = DetachedSessions(8, 60.0), new_session()
    store.add(session)
    await asyncio.sleep(59)
    assert (len(store), session.ends) == (1, 0)
    await asyncio.sleep(2)
    assert (len(store), session.ends) == (0, 1)
    store.end_all()
    assert session.ends == 1


@in_virtual_time
async def test_claimed_session_does_not_expire() -> None:
    store, session = DetachedSessions(8, 60.0), new_session()
    store.add(session)
    assert store.claim(b"k", b"other") is None
    assert store.claim(b"other", b"s") is None
    assert store.claim(b"k", b"s") is session
    assert store.claim(b"k", b"s") is None
    await asyncio.sleep(100)
    assert session.ends == 0


async def test_session_ends_at_once_when_keep_s_is_zero() -> None:
    store, session = DetachedSessions(8, 0.0), new_session()
    store.add(session)
    assert (len(store), session.ends) == (0, 1)


@in_virtual_time
async def test_oldest_session_ends_when_the_capacity_is_exceeded() -> None:
    store = DetachedSessions(2, 60.0)
    sessions = [new_session(key) for key in (b"a", b"b", b"c")]
    for session in sessions:
        store.add(session)
    assert [session.ends for session in sessions] == [1, 0, 0]
    assert list(store) == sessions[1:]
    store.end_all()
    assert [session.ends for session in sessions] == [1, 1, 1]


@in_virtual_time
async def test_sessions_without_jobs_do_not_evict_sessions_with_jobs() -> None:
    # In an earlier version they did. One enrollment code admits any number of keys, whose idle
    # sessions could end the jobs of other agents.
    store, busy = DetachedSessions(2, 60.0), new_session(b"busy")
    busy.jobs[b"job"] = RunningJob(Job(b"job", "tiny", "openai", b"", 1), busy, 0.0)
    store.add(busy)
    idle = [new_session(bytes([number])) for number in range(10)]
    for session in idle:
        store.add(session)
    assert (busy.ends, [session.ends for session in idle]) == (0, [1] * 9 + [0])
    store.end_all()


@in_virtual_time
async def test_public_key_has_at_most_one_current_and_one_retired_session() -> None:
    store = DetachedSessions(3, 60.0)
    other = new_session(b"other")
    store.add(other)
    for number in range(100):
        store.add(new_session(session_id=bytes([number]), retired=number % 2 == 0))
    assert (len(store), other.ends) == (3, 0)
    store.end_all()


@in_virtual_time
async def test_keep_time_of_a_replacing_session_starts_when_it_is_added() -> None:
    store, older, newer = DetachedSessions(8, 60.0), new_session(), new_session(session_id=b"t")
    store.add(older)
    await asyncio.sleep(50)
    store.add(newer)
    assert older.ends == 1
    await asyncio.sleep(50)
    assert newer.ends == 0
    store.end_all()


@in_virtual_time
async def test_end_replaced_keeps_only_the_retired_session_of_another_process() -> None:
    for retired, instance_id, ends in (
        (False, "one", 1),
        (False, "two", 1),
        (True, "one", 1),
        (True, "two", 0),
    ):
        store, session = DetachedSessions(8, 60.0), new_session(retired=retired)
        store.add(session)
        store.end_replaced(b"other", instance_id)
        assert session.ends == 0
        store.end_replaced(b"k", instance_id)
        assert session.ends == ends, (retired, instance_id)
        store.end_all()


@in_virtual_time
async def test_holds_and_repr_reflect_the_stored_sessions() -> None:
    store = DetachedSessions(8, 60.0)
    store.add(new_session(retired=True))
    assert store.holds(b"k")
    assert store.holds(b"k", b"s")
    assert not store.holds(b"k", b"t")
    assert not store.holds(b"other")
    assert repr(store) == "<DetachedSessions [<DetachedSession 73 retired jobs=0>]>"
    store.end_all()
