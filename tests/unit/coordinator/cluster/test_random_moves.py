"""An agent that moves between coordinators at random, while messages are late or lost."""

import random

import pytest

from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.frames import JobEnd, JobResult
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.moving_agent import INTERVAL_S, Kind, MemoryCluster, MovingAgent, Node, read

JOBS = 4
STEPS = 300
SETTLE_ROUNDS = 200
"""More windows than a job has."""


class RandomMoves:
    """One run; its choices depend on the seed alone."""

    def __init__(self, seed: int, *, loses_messages: bool) -> None:
        self.chance = random.Random(seed)
        self.loses_messages = loses_messages
        self.cluster = MemoryCluster(4)
        self.edge = self.cluster.node(0)
        self.agent = MovingAgent()
        self.agent.connect(self.cluster.node(self.chance.randrange(3)))
        self.cluster.settle()
        self.running = [self.edge.submit(number) for number in range(JOBS)]
        self.cluster.exchange()
        self.agent.exchange()
        self.written = {job.job_id: b"" for job in self.running}
        self.read = {job.job_id: b"" for job in self.running}
        self.ends: dict[bytes, JobEnd] = {}

    def step(self) -> None:
        chance = self.chance
        action = chance.random()
        if action < 0.25:
            self.write()
        elif action < 0.4:
            self.read_from(chance.choice(self.running))
        elif action < 0.45:
            # A request that arrives later than those of the next takeover takes the jobs back.
            self.cluster.exchange(Kind.REQUEST)
            self.agent.connect(self.random_node())
        elif action < 0.5:
            self.agent.notice_losses()
        elif action < 0.55:
            self.pass_interval()
        elif self.loses_messages and action < 0.6 and (routes := self.cluster.routes(Kind.BATCH)):
            self.cluster.lose(chance.choice(routes))
        elif routes := self.cluster.routes():
            self.cluster.deliver(chance.choice(routes))
        self.cluster.collect()
        self.agent.exchange()
        self.check()

    def random_node(self) -> Node:
        return self.chance.choice(list(self.cluster.nodes.values()))

    def write(self) -> None:
        if not self.agent.jobs:
            return
        job_id, job = self.chance.choice(sorted(self.agent.jobs.items()))
        if job.stream.end is not None:
            return
        data = self.chance.randbytes(self.chance.randrange(MIN_WINDOW_BYTES))
        self.written[job_id] += data
        self.agent.write(job_id, data)
        if self.chance.random() < 0.05:
            self.agent.finish(job_id)

    def read_from(self, running: RunningJob) -> None:
        self.read[running.job_id] += read(running)

    def pass_interval(self) -> None:
        self.cluster.now += INTERVAL_S
        self.cluster.exchange()  # messages that are late for longer count as lost
        self.agent.exchange()
        self.cluster.send_snapshots()
        self.cluster.exchange(Kind.SNAPSHOT)
        for node in list(self.cluster.nodes.values()):
            node.member.tick()

    def check(self) -> None:
        for running in self.running:
            expected = self.written[running.job_id]
            assert expected.startswith(self.read[running.job_id])
            if running.end is not None:
                assert self.ends.setdefault(running.job_id, running.end) is running.end
        for job in self.agent.jobs.values():
            assert job.stream.sent - job.stream.acked <= MIN_WINDOW_BYTES

    def finish(self) -> None:
        """Lose nothing more; the agent stays where it is, and ends its jobs."""
        for _ in range(4):
            self.settle()
        for job_id in list(self.agent.jobs):
            self.agent.finish(job_id)
        for _ in range(SETTLE_ROUNDS):
            self.settle()
            if not any(node.jobs for node in self.cluster.nodes.values()):
                break
        for running in self.running:
            self.read_from(running)
        self.check()

    def settle(self) -> None:
        self.cluster.settle()
        for running in self.running:
            self.read_from(running)
        self.cluster.exchange()
        self.agent.exchange()
        self.agent.notice_losses()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("loses_messages", [False, True])
async def test_each_job_ends_once_and_with_all_bytes(seed: int, loses_messages: bool) -> None:
    moves = RandomMoves(seed, loses_messages=loses_messages)
    for _ in range(STEPS):
        moves.step()
    moves.finish()
    for running in moves.running:
        assert isinstance(running.end, JobResult), running.end
        assert moves.read[running.job_id] == moves.written[running.job_id]
    assert moves.agent.jobs == {}
    assert [node.jobs for node in moves.cluster.nodes.values()] == [0, 0, 0, 0]
