import uuid

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.limits import MAX_LIVE_JOBS
from provider_agent.protocol.usepod.job_ids import JobIds

TEXT = "4ee1308c-f210-44b2-9bf2-628bb77a9e7a"
BYTES = uuid.UUID(TEXT).bytes


@given(st.lists(st.one_of(st.text(min_size=1), st.uuids().map(str)), unique=True))
def test_every_text_survives_the_round_trip(texts: list[str]) -> None:
    ids = JobIds()
    added = [ids.add(text) for text in texts]

    assert len(set(added)) == len(texts)
    for text, job_id in zip(texts, added, strict=True):
        assert job_id is not None
        assert len(job_id) == 16
        assert ids.find(text) == job_id
        assert ids.text(job_id) == text


def test_a_uuid_keeps_its_bytes() -> None:
    assert JobIds().add(TEXT) == BYTES


def test_two_spellings_of_a_uuid_are_two_jobs() -> None:
    ids = JobIds()
    others = [TEXT.upper(), f"{{{TEXT}}}", TEXT.replace("-", ""), f"urn:uuid:{TEXT}"]
    added = [ids.add(text) for text in (TEXT, *others)]

    assert added[0] == BYTES
    assert len(set(added)) == 5
    assert [ids.text(job_id) for job_id in added if job_id is not None] == [TEXT, *others]


def test_an_id_that_arrives_twice_is_one_job_even_after_its_end() -> None:
    ids = JobIds()
    ids.add(TEXT)
    assert ids.add(TEXT) is None
    ids.end(BYTES)
    assert ids.add(TEXT) is None


def test_an_ended_job_is_not_found() -> None:
    ids = JobIds()
    ids.add(TEXT)

    assert ids.end(BYTES) == TEXT
    assert ids.end(BYTES) is None
    assert ids.find(TEXT) is None
    assert ids.text(BYTES) is None


def test_an_id_of_an_earlier_connection_is_another_job() -> None:
    # The agent still knows the 16 bytes of the lost job, and would drop a second one with them.
    ids = JobIds()
    ids.add(TEXT)
    ids.start_connection()

    assert ids.find(TEXT) is None
    again = ids.add(TEXT)
    assert again is not None
    assert again != BYTES
    assert ids.text(BYTES) is None
    assert ids.text(again) == TEXT


def test_a_running_job_is_found_and_not_repeated_after_any_number_of_others() -> None:
    ids = JobIds()
    ids.add(TEXT)
    for number in range(3 * MAX_LIVE_JOBS):
        job_id = ids.add(f"job {number}")
        assert job_id is not None
        ids.end(job_id)

    assert ids.add(TEXT) is None
    assert ids.find(TEXT) == BYTES


def test_memory_is_bounded() -> None:
    ids = JobIds()
    for number in range(3 * MAX_LIVE_JOBS):
        job_id = ids.add(f"job {number}")
        assert job_id is not None
        ids.end(job_id)

    assert repr(ids) == f"<JobIds live=0 used={2 * MAX_LIVE_JOBS}>"
