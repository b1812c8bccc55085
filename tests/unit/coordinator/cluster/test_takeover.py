"""Agents that move between coordinators while messages are late, lost or wrong."""

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.cluster.messages import MAX_MESSAGE_BYTES, MalformedPeerMessage
from provider_agent.coordinator.cluster.takeover import Takeover
from provider_agent.coordinator.cluster.takeover_messages import (
    TakenJob,
    TakeoverAnswer,
    TakeoverRequest,
    decode_answer,
    encode_takeover,
    fitting,
)
from provider_agent.coordinator.cluster.view import MAX_COORDINATORS
from provider_agent.coordinator.sessions.detached_session import (
    DetachedSession,
    LostJob,
    new_session,
)
from provider_agent.protocol.frames import JobError, JobHeader, JobResult, LiveJob
from provider_agent.protocol.limits import MAX_DEADLINE_MS, MIN_WINDOW_BYTES
from provider_agent.protocol.state import State
from tests.kit.moving_agent import INTERVAL_S, KEY, Kind, MemoryCluster, MovingAgent, read

PUBLIC_KEY = KEY.public_key().public_bytes_raw()


class Scene:
    """A client at `edge`, its agent at `holder`, and a `third` coordinator."""

    def __init__(self, *, local: bool = False) -> None:
        self.cluster = MemoryCluster()
        self.edge, self.holder, self.third = (self.cluster.node(index) for index in range(3))
        self.agent = MovingAgent()
        self.agent.connect(self.edge if local else self.holder)
        self.cluster.settle()
        self.running = self.edge.submit(1)
        self.job_id = self.running.job_id
        self.cluster.exchange()
        self.agent.exchange()
        self.agent.write(self.job_id, b"one,")
        self.cluster.exchange()
        assert read(self.running) == b"one,"

    def assert_continues(self) -> None:
        """Finish the response; nothing of the job remains anywhere."""
        for _ in range(2):
            self.cluster.exchange()
            self.agent.exchange()
        self.agent.write(self.job_id, b"two")
        self.agent.finish(self.job_id)
        self.cluster.exchange()
        assert read(self.running) == b"two"
        assert isinstance(self.running.end, JobResult)
        self.agent.exchange()
        self.agent.notice_losses()
        for _ in range(6):
            self.cluster.settle()
        assert self.agent.jobs == {}
        assert [node.jobs for node in self.cluster.nodes.values()] == [0, 0, 0]


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("noticed", [True, False])
async def test_job_continues_wherever_its_agent_reconnects(
    local: bool, target: int, noticed: bool
) -> None:
    scene = Scene(local=local)
    scene.agent.lose_link()
    if noticed:
        scene.agent.notice_losses()
    scene.agent.connect(scene.cluster.node(target))
    scene.assert_continues()


@pytest.mark.parametrize("local", [True, False])
async def test_job_that_did_not_reach_its_agent_counts_as_refused(local: bool) -> None:
    scene = Scene(local=local)
    lost = scene.edge.submit(2)
    scene.cluster.exchange()
    scene.agent.lose_link()  # before the agent has read the header of the second job
    scene.agent.connect(scene.third)
    scene.assert_continues()
    assert isinstance(lost.end, JobError)
    assert lost.end.code == "out_of_capacity"


@pytest.mark.parametrize("local", [True, False])
async def test_job_continues_although_one_coordinator_does_not_answer(local: bool) -> None:
    # The edge renewed the job while the new holder waited for the other answers. The new holder
    # answered that it does not have the job, and the edge ended it.
    scene = Scene(local=local)
    scene.agent.connect(scene.third)
    scene.cluster.collect()
    silent = scene.holder if not local else scene.edge
    for route in scene.cluster.routes(Kind.REQUEST):
        if local or route[1] != silent.own_id:
            scene.cluster.deliver(route)
    for route in scene.cluster.routes(Kind.ANSWER):
        scene.cluster.deliver(route)
    scene.cluster.now += INTERVAL_S
    scene.edge.member.tick()
    scene.cluster.exchange(Kind.BATCH)
    for route in scene.cluster.routes(Kind.REQUEST):
        scene.cluster.lose(route)
    scene.assert_continues()


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("second", [0, 1, 2])
@pytest.mark.parametrize("delivered", [(), (Kind.REQUEST,)])
async def test_job_continues_after_a_second_move_during_a_takeover(
    local: bool, first: int, second: int, delivered: tuple[Kind, ...]
) -> None:
    # The jobs of the first takeover were in no session that the second one found.
    scene = Scene(local=local)
    scene.agent.connect(scene.cluster.node(first))
    scene.cluster.collect()
    if delivered:
        scene.cluster.exchange(*delivered)
    scene.agent.connect(scene.cluster.node(second))
    scene.assert_continues()


async def test_late_messages_of_the_older_holder_do_not_end_a_job_that_returns_to_it() -> None:
    # A `Cancel` or `Renewal` from before the moves ended the job at its first holder.
    scene = Scene()
    scene.edge.member.edge.renew({scene.holder.own_id})
    scene.cluster.collect()
    for target in (scene.third, scene.holder):
        scene.agent.connect(target)
        scene.cluster.exchange(Kind.REQUEST, Kind.ANSWER)
        scene.agent.exchange()
    scene.assert_continues()


async def test_renewal_of_a_job_that_its_holder_has_released_does_not_end_it() -> None:
    # The holder answered that it does not have the job, before the request of the new holder
    # arrived at the edge.
    scene = Scene()
    scene.holder.member.holder.release_all()
    scene.edge.member.tick()
    scene.cluster.exchange()
    scene.agent.connect(scene.third)
    scene.assert_continues()


async def test_job_that_does_not_arrive_at_its_new_holder_ends_after_the_time_of_a_lease() -> None:
    scene = Scene()
    scene.agent.connect(scene.third)
    scene.cluster.exchange(Kind.REQUEST)
    for route in scene.cluster.routes(Kind.ANSWER):
        scene.cluster.lose(route)
    scene.cluster.settle()
    assert len(scene.edge.member.edge) == 1
    for _ in range(5):
        scene.cluster.settle()
    assert isinstance(scene.running.end, LostJob)
    assert [node.jobs for node in scene.cluster.nodes.values()] == [0, 0, 0]


async def test_job_that_an_agent_lists_twice_continues_once() -> None:
    # The second entry raised a KeyError.
    scene = Scene()
    live = scene.agent.jobs[scene.job_id].live_job()
    edge = scene.edge.member.edge
    request = TakeoverRequest(scene.third.own_id, PUBLIC_KEY, bytes(16), [live, live])
    assert len(edge.move(request)) == 1
    assert len(edge.remove(request)) == 1
    assert len(edge) == 0


def taken(job_id: bytes, **changes: object) -> TakenJob:
    header = JobHeader(job_id, "tiny", "openai", 2, 60_000, "chat")
    return replace(TakenJob(header, 4, 4, MIN_WINDOW_BYTES), **changes)


async def test_answer_cannot_replace_a_job_of_a_client_here() -> None:
    # The client waited until its deadline, because the session had another job with the id.
    scene = Scene()
    scene.agent.connect(scene.edge)
    scene.cluster.replace_answers(TakeoverAnswer(scene.holder.own_id, [taken(scene.job_id)]))
    scene.assert_continues()


@pytest.mark.parametrize(
    "changes",
    [
        {"consumed": 5},
        {"received": 5},
        {"received": 2**53 - 1},
        {"received": 2**53 - 1, "consumed": 2**53 - 1},
        {"received": 0, "consumed": 0},
    ],
    ids=str,
)
async def test_job_that_its_edge_describes_wrongly_ends(changes: dict[str, int]) -> None:
    scene = Scene()
    scene.agent.write(scene.job_id, bytes(MIN_WINDOW_BYTES - 4))
    scene.cluster.exchange()
    read(scene.running)
    scene.cluster.exchange()
    scene.agent.exchange()
    scene.agent.connect(scene.third)
    scene.cluster.exchange(Kind.REQUEST)
    scene.cluster.replace_answers(
        TakeoverAnswer(scene.edge.own_id, [taken(scene.job_id, **changes)])
    )
    scene.agent.exchange()
    scene.agent.notice_losses()
    assert scene.agent.jobs == {}
    for _ in range(6):
        scene.cluster.settle()
    assert isinstance(scene.running.end, LostJob)
    assert [node.jobs for node in scene.cluster.nodes.values()] == [0, 0, 0]


@pytest.mark.parametrize("window_bytes", [MIN_WINDOW_BYTES, 2**30])
@pytest.mark.parametrize("deadline_ms", [0, MAX_DEADLINE_MS])
async def test_agent_fills_its_own_window_at_most(window_bytes: int, deadline_ms: int) -> None:
    scene = Scene()
    scene.agent.connect(scene.third)
    header = replace(taken(scene.job_id).header, deadline_ms=deadline_ms)
    changed = taken(scene.job_id, window_bytes=window_bytes, header=header)
    scene.cluster.exchange(Kind.REQUEST)
    scene.cluster.replace_answers(TakeoverAnswer(scene.edge.own_id, [changed]))
    scene.agent.exchange()
    scene.agent.write(scene.job_id, bytes(10 * MIN_WINDOW_BYTES))
    assert scene.agent.jobs[scene.job_id].stream.sent == 4 + MIN_WINDOW_BYTES
    assert scene.third.member.holder._jobs[scene.job_id].stream.written == 4 + MIN_WINDOW_BYTES


async def test_jobs_that_the_agent_does_not_list_are_not_taken_over() -> None:
    scene = Scene()
    scene.agent.connect(scene.third)
    others = [taken(scene.third.new_id(number)) for number in range(2, 1000)]
    scene.cluster.exchange(Kind.REQUEST)
    scene.cluster.replace_answers(TakeoverAnswer(scene.edge.own_id, [*others, taken(scene.job_id)]))
    assert scene.third.jobs == 2  # its own, at the holder and on the agent's connection
    scene.assert_continues()


@pytest.mark.parametrize("key", [bytes(32), PUBLIC_KEY])
async def test_request_names_no_job_of_another_agent_or_coordinator(key: bytes) -> None:
    scene = Scene()
    live = LiveJob(scene.job_id, 0, 4, request_offset=2)
    sender = scene.edge.own_id if key == PUBLIC_KEY else scene.third.own_id
    for node in scene.cluster.nodes.values():
        request = TakeoverRequest(sender, key, scene.holder.new_session_id(), [live])
        if sender == node.own_id:
            with pytest.raises(MalformedPeerMessage):
                node.member.answer_takeover(encode_takeover(request))
        elif key != PUBLIC_KEY:
            answer = decode_answer(node.member.answer_takeover(encode_takeover(request)))
            assert answer.jobs == []
    assert scene.edge.own_id not in scene.edge.member.view
    scene.assert_continues()


async def test_requests_of_thousands_of_coordinators_do_not_fill_the_view() -> None:
    scene = Scene()
    for number in range(1000):
        live = [LiveJob(number.to_bytes(2) + job.to_bytes(14), 0, 0) for job in range(20)]
        request = TakeoverRequest(number.to_bytes(16), PUBLIC_KEY, bytes(16), live)
        answer = decode_answer(scene.edge.member.answer_takeover(encode_takeover(request)))
        assert answer.jobs == []
    assert len(scene.edge.member.view) <= MAX_COORDINATORS
    scene.assert_continues()


@pytest.mark.parametrize("message", [b"", b"\xff", bytes(MAX_MESSAGE_BYTES + 1), b"\x94" * 1000])
async def test_malformed_messages_are_rejected(message: bytes) -> None:
    scene = Scene()
    with pytest.raises(MalformedPeerMessage):
        scene.edge.member.answer_takeover(message)
    scene.agent.connect(scene.third)
    for _receiver, answered in scene.cluster.take_answers():
        answered(message)
    assert scene.agent.link is not None
    assert scene.agent.link.connected.state is State.OPEN


async def test_answers_count_once_and_only_of_those_that_were_asked() -> None:
    completed: list[DetachedSession | None] = []
    session = new_session(PUBLIC_KEY, bytes(16), "one")
    live = LiveJob(b"j" * 16, 0, 4)
    request = TakeoverRequest(b"N" * 16, PUBLIC_KEY, bytes(16), [live])
    takeover = Takeover(request, session, [b"A" * 16, b"B" * 16], completed.append)
    good = taken(live.job_id)
    assert takeover.accept(b"X" * 16, TakeoverAnswer(b"X" * 16, [good])) == []
    assert takeover.accept(b"A" * 16, TakeoverAnswer(b"A" * 16, [good])) == [good]
    assert takeover.accept(b"A" * 16, TakeoverAnswer(b"A" * 16, [good])) == []
    assert not takeover.complete()
    assert takeover.accept(b"B" * 16, TakeoverAnswer(b"A" * 16, [good])) == []
    assert takeover.complete()
    assert completed == [session]


async def test_answers_after_the_agent_has_connected_again_are_ignored() -> None:
    completed: list[DetachedSession | None] = []
    session = new_session(PUBLIC_KEY, bytes(16), "one")
    request = TakeoverRequest(b"N" * 16, PUBLIC_KEY, bytes(16), [LiveJob(b"j" * 16, 0, 4)])
    takeover = Takeover(request, session, [b"A" * 16], completed.append)
    assert takeover.cancel() is session
    assert takeover.accept(b"A" * 16, TakeoverAnswer(b"A" * 16, [taken(b"j" * 16)])) == []
    assert completed == [None]


async def test_answer_of_many_jobs_is_no_bigger_than_a_message() -> None:
    jobs = [taken(number.to_bytes(16)) for number in range(4096)]
    large = [replace(job, header=replace(job.header, model_id="m" * 512)) for job in jobs]
    for candidates in (jobs, large):
        kept = fitting(candidates)
        assert kept == candidates[: len(kept)]
        message = encode_takeover(TakeoverAnswer(bytes(16), kept))
        assert len(decode_answer(message).jobs) == len(kept)
    assert len(fitting(jobs)) == 4096
    assert 500 < len(fitting(large)) < 4096
