from provider_agent.coordinator.agents.batching import frame_bytes, pop_batch
from provider_agent.protocol.frames import Ack, CoordinatorFrame, Job

ACK = Ack(bytes(16), 1)


def new_job(size: int) -> Job:
    return Job(bytes(16), "tiny", "openai", bytes(size), 1000)


def test_batch_keeps_the_order_of_its_frames() -> None:
    frames: list[CoordinatorFrame] = [ACK, new_job(100), ACK]
    expected = list(frames)
    assert pop_batch(frames, 10_000) == expected
    assert frames == []


def test_frames_beyond_the_budget_stay_queued() -> None:
    frames: list[CoordinatorFrame] = [ACK] * 5
    assert len(pop_batch(frames, 2 * frame_bytes(ACK))) == 2
    assert len(frames) == 3


def test_job_over_the_budget_is_sent_alone() -> None:
    big = new_job(5000)
    frames: list[CoordinatorFrame] = [ACK, big, ACK]
    assert pop_batch(frames, 1000) == [ACK]
    assert pop_batch(frames, 1000) == [big]
    assert pop_batch(frames, 1000) == [ACK]
    assert pop_batch(frames, 1000) == []
