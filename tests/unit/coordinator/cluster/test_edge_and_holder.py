"""The edge and the holder of remote jobs together, over messages that may be lost."""

import random

import pytest

from provider_agent.coordinator.cluster import holder as holder_module
from provider_agent.coordinator.cluster.messages import AgentLost, Gone, Offer, RenewedJob
from provider_agent.coordinator.cluster.messages import Renewal as RenewalFrame
from provider_agent.coordinator.sessions.detached_session import LostJob
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import Ack, Cancel, Chunk, JobError, JobResult, RequestChunk
from provider_agent.protocol.job import Job
from tests.kit.cluster_pair import EDGE, HOLDER, LEASE_S, WINDOW, ClusterPair, chat_job


def sent_job() -> tuple[ClusterPair, Job, RunningJob]:
    """Return edge and holder, and a job that the edge has sent."""
    pair, job = ClusterPair(), chat_job()
    running = pair.agent.submit(job)
    pair.exchange()
    return pair, job, running


def test_response_arrives_byte_for_byte_and_both_sides_forget_the_job() -> None:
    pair, job, running = sent_job()
    assert pair.played.jobs[job.job_id].job.request == job.request
    pair.played.write(job, b"one")
    pair.exchange()
    assert pair.read(running) == b"one"
    pair.played.write(job, b"two")
    pair.played.finish(job)
    pair.exchange()
    assert pair.read(running) == b"two"
    assert isinstance(running.end, JobResult)
    assert running.end.total_bytes == 6
    assert (len(pair.edge), len(pair.holder)) == (0, 0)
    assert pair.ended == [running.end]


def test_large_request_arrives_in_pieces() -> None:
    pair = ClusterPair()
    job = chat_job(request=random.Random(1).randbytes(1_000_000))
    pair.agent.submit(job)
    pair.exchange()
    assert pair.played.jobs[job.job_id].job.request == job.request


def test_agent_sends_one_window_at_most_while_the_client_does_not_read() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, bytes(WINDOW))
    pair.exchange()
    assert running.buffered_bytes == WINDOW
    assert (pair.played.consumed[job.job_id], pair.played.free(job)) == (0, 0)
    assert len(pair.read(running)) == WINDOW
    pair.exchange()
    assert pair.played.free(job) == WINDOW


@pytest.mark.parametrize("code", [ErrorCode.OUT_OF_CAPACITY, ErrorCode.DRAINING])
def test_holder_refuses_a_job_with_the_code_of_the_protocol(code: ErrorCode) -> None:
    pair = ClusterPair()
    pair.refusal = code
    running = pair.agent.submit(chat_job())
    pair.exchange()
    assert isinstance(running.end, JobError)
    assert (running.end.code, running.end.retryable) == (code, True)
    assert pair.played.jobs == {}
    assert (len(pair.edge), len(pair.holder)) == (0, 0)


def test_job_with_unknown_operation_is_refused() -> None:
    pair = ClusterPair()
    header = chat_job().header
    unknown = Offer(b"k" * 32, type(header)(bytes(16), "tiny", "telepathy", 2, 1000), WINDOW)
    pair.holder.receive(EDGE, unknown)
    (refusal,) = pair.holder.next_frames(EDGE, 1000)
    assert isinstance(refusal, JobError)
    assert refusal.code == ErrorCode.FORMAT_NOT_SUPPORTED


def test_incomplete_requests_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_module, "MAX_INCOMPLETE_BYTES", 10)
    pair = ClusterPair()
    pair.holder.receive(EDGE, Offer(b"k" * 32, chat_job(request=bytes(11)).header, WINDOW))
    (refusal,) = pair.holder.next_frames(EDGE, 1000)
    assert isinstance(refusal, JobError)
    assert refusal.code == ErrorCode.OUT_OF_CAPACITY


def test_abandoned_job_is_cancelled_at_the_agent() -> None:
    pair, job, running = sent_job()
    running.owner.abandon(running)
    running.owner.abandon(running)
    pair.exchange()
    assert pair.played.cancelled == [job.job_id]
    assert (len(pair.edge), len(pair.holder)) == (0, 0)


def test_job_that_its_edge_does_not_renew_is_cancelled() -> None:
    pair = ClusterPair()
    job = chat_job()
    pair.agent.submit(job)
    pair.exchange()
    pair.now += LEASE_S
    pair.edge.renew({HOLDER})
    pair.exchange()
    pair.now += LEASE_S
    pair.holder.expire()
    assert pair.played.cancelled == []
    pair.now += 0.1
    pair.holder.expire()
    assert pair.played.cancelled == [job.job_id]


def test_leases_start_again_after_an_interruption() -> None:
    pair = ClusterPair()
    pair.agent.submit(chat_job())
    pair.exchange()
    pair.now += 100 * LEASE_S
    pair.holder.restart_leases()
    pair.holder.expire()
    assert pair.played.cancelled == []


def test_jobs_of_a_silent_holder_end_with_one_error_after_the_resume_time() -> None:
    pair = ClusterPair()
    running = pair.agent.submit(chat_job())
    pair.exchange()
    pair.edge.lose_holder(HOLDER)
    pair.edge.expire(60)
    assert (running.lost, running.end) == (True, None)
    pair.now += 60
    pair.edge.expire(60)
    assert isinstance(running.end, LostJob)
    assert (running.end.code, running.end.retryable) == ("provider_lost", True)
    assert len(pair.edge) == 0


def test_lost_session_of_the_agent_ends_the_job_at_the_edge() -> None:
    pair, job, running = sent_job()
    pair.played.jobs[job.job_id].on_end(LostJob(job.job_id, 0, "coordinator_stopping", ""))
    pair.exchange()
    assert isinstance(running.end, LostJob)
    assert running.end.code == "coordinator_stopping"
    assert (len(pair.edge), len(pair.holder)) == (0, 0)


def test_unknown_reason_of_a_holder_counts_as_lost_provider() -> None:
    pair = ClusterPair()
    running = pair.agent.submit(chat_job())
    pair.edge.receive(HOLDER, Gone(running.job_id, "no_memory"))
    assert isinstance(running.end, LostJob)
    assert running.end.code == "provider_lost"


def test_edge_learns_that_the_agent_may_be_lost_and_that_it_returned() -> None:
    pair, job, running = sent_job()
    for lost in (True, False):
        pair.played.jobs[job.job_id].set_lost(lost)
        pair.exchange()
        assert running.lost is lost


def test_edge_resends_the_acknowledgement_of_a_lost_message() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, bytes(WINDOW))
    pair.exchange()
    pair.read(running)
    pair.lose_messages()
    pair.edge.renew({HOLDER})
    pair.exchange()
    assert pair.played.free(job) == WINDOW


def test_edge_requests_bytes_after_a_gap_at_once() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, b"lost ")
    pair.lose_messages()
    pair.played.write(job, b"arrives")
    pair.exchange()
    assert pair.read(running) == b"lost arrives"


def test_lost_end_is_sent_again_after_two_renewals() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, b"all")
    pair.exchange()
    pair.played.finish(job)
    pair.lose_messages()
    for _ in range(2):
        pair.edge.renew({HOLDER})
        pair.exchange()
    assert isinstance(running.end, JobResult)
    assert len(pair.holder) == 0


def test_lost_final_acknowledgement_does_not_keep_the_job() -> None:
    pair = ClusterPair()
    job = chat_job()
    pair.agent.submit(job)
    pair.exchange()
    pair.played.finish(job)
    pair.collect()
    pair.deliver_one(pair.to_edge)
    pair.lose_messages()
    assert len(pair.holder) == 1
    pair.now += LEASE_S + 1
    pair.holder.expire()
    assert len(pair.holder) == 0
    assert pair.played.cancelled == []


def test_job_whose_offer_was_lost_counts_as_refused_at_the_next_renewal() -> None:
    # Regression: it ended with `provider_lost`, so that its client received 502.
    pair = ClusterPair()
    running = pair.agent.submit(chat_job())
    pair.lose_messages()
    pair.edge.renew({HOLDER})
    pair.exchange()
    assert isinstance(running.end, JobError)
    assert (running.end.code, running.end.retryable) == (ErrorCode.OUT_OF_CAPACITY, True)
    assert pair.played.jobs == {}


def test_started_job_that_its_holder_no_longer_has_is_lost() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, b"first")
    pair.exchange()
    pair.holder.drop_edge(EDGE)
    pair.edge.renew({HOLDER})
    pair.exchange()
    assert isinstance(running.end, LostJob)
    assert running.end.code == "provider_lost"


def test_lost_piece_of_a_request_ends_the_job() -> None:
    pair = ClusterPair()
    running = pair.agent.submit(chat_job(request=bytes(1_000_000)))
    pair.collect()
    del pair.to_holder[1]
    pair.exchange()
    assert isinstance(running.end, JobError)
    assert running.end.code == ErrorCode.OUT_OF_CAPACITY
    assert len(pair.holder) == 0


def test_repeated_offer_does_not_run_the_job_twice() -> None:
    pair = ClusterPair()
    pair.agent.submit(chat_job())
    pair.collect()
    pair.to_holder.append(pair.to_holder[0])
    pair.exchange()
    assert len(pair.played.jobs) == 1


def test_id_of_a_cancelled_job_is_not_used_again() -> None:
    pair, job, running = sent_job()
    running.owner.abandon(running)
    pair.exchange()
    again = pair.agent.submit(job)
    pair.exchange()
    assert isinstance(again.end, LostJob)
    assert len(pair.holder) == 0


def test_frames_of_another_coordinator_do_not_affect_a_job() -> None:
    pair, job, running = sent_job()
    other = b"X" * 16
    pair.played.write(job, b"abc")
    for frame in (Cancel(job.job_id), Ack(job.job_id, 3), RequestChunk(job.job_id, 0, b"x")):
        pair.holder.receive(other, frame)
    pair.holder.receive(other, RenewalFrame([RenewedJob(job.job_id, 3, 3)]))
    pair.edge.receive(other, Gone(job.job_id, "provider_lost"))
    pair.edge.receive(other, AgentLost(job.job_id, True))
    pair.exchange()
    assert pair.played.cancelled == []
    assert (running.end, running.lost) == (None, False)
    assert pair.read(running) == b"abc"


def test_holder_that_exceeds_the_window_loses_the_job() -> None:
    pair, job, running = sent_job()
    pair.played.write(job, b"start")
    pair.exchange()
    pair.edge.receive(HOLDER, Chunk(job.job_id, 5, bytes(WINDOW)))
    assert isinstance(running.end, LostJob)
    pair.exchange()
    assert pair.played.cancelled == [job.job_id]


def test_acknowledgement_of_unsent_bytes_cancels_the_job() -> None:
    pair, job, running = sent_job()
    pair.holder.receive(EDGE, Ack(job.job_id, 1))
    pair.exchange()
    assert pair.played.cancelled == [job.job_id]
    assert isinstance(running.end, LostJob)


@pytest.mark.parametrize("seed", range(40))
def test_responses_are_complete_over_messages_that_are_lost(seed: int) -> None:
    chance = random.Random(seed)
    pair = ClusterPair()
    jobs = [chat_job(number) for number in range(4)]
    running = {job.job_id: pair.agent.submit(job) for job in jobs}
    pair.exchange()
    written = {job.job_id: b"" for job in jobs}
    read = {job.job_id: b"" for job in jobs}
    for _ in range(400):
        job = chance.choice(jobs)
        action = chance.random()
        if action < 0.4 and pair.played.jobs[job.job_id].end is None:
            data = chance.randbytes(min(pair.played.free(job), chance.randrange(8000)))
            pair.played.write(job, data)
            written[job.job_id] += data
            if chance.random() < 0.02:
                pair.played.finish(job)
        elif action < 0.6:
            read[job.job_id] += pair.read(running[job.job_id])
        elif action < 0.65:
            pair.edge.renew({HOLDER})
        pair.collect()
        for queue in (pair.to_holder, pair.to_edge):
            if queue and chance.random() < 0.2:
                queue.popleft()
            elif queue and chance.random() < 0.7:
                pair.deliver_one(queue)
    for job in jobs:
        pair.played.finish(job)
    for _ in range(10):
        pair.exchange()
        for job in jobs:
            read[job.job_id] += pair.read(running[job.job_id])
        pair.edge.renew({HOLDER})
    assert read == written
    assert all(isinstance(job.end, JobResult) for job in running.values())
    assert len(pair.edge) == 0


def test_report_that_was_not_sent_is_dropped_when_its_job_returns() -> None:
    # Otherwise the edge would end the job, which continues.
    pair = ClusterPair()
    job = chat_job()
    pair.agent.submit(job)
    pair.exchange()
    pair.played.jobs[job.job_id].on_end(LostJob(job.job_id, 0, "provider_lost", ""))
    pair.holder.expect([job.job_id])
    assert pair.holder.next_frames(EDGE, 10**9) == []
