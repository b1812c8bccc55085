"""Frames that come twice, or at an unexpected moment, from a coordinator that is not ours."""

from msgspec import json

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.frames import Drain, JobResult
from tests.faults.scenarios.numbered_server import MODEL, NumberedServer, Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_coordinator import ScriptedCoordinator


async def job_delivered_twice(effort: Effort) -> str:
    """In one message, while it runs, and after its end: it runs once and has one end."""
    async with (
        NumberedServer() as server,
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, _backend(server)) as agent,
    ):
        peer = await agent.connected()
        for n in range(effort.rounds):
            order = Order(f"job-{n}", 10, 300, pace_s=1.0)
            job = new_job(MODEL, request=json.encode(order.request()))
            await peer.give(job)
            await peer.send(job, job)
            await server.streaming(order.name)
            await peer.send(job)
            assert isinstance(await peer.end(job.job_id), JobResult)
            await peer.send(job)
            await peer.settle()
            assert bytes(peer.data[job.job_id]) == bytes(server.only_run(order.name).sent)
            assert len(peer.ends(job.job_id)) == 1
    return f"{effort.rounds} jobs, five times each, ran once each"


async def drain_with_running_jobs(effort: Effort) -> str:
    """The coordinator goes away: what runs is finished there, then the agent leaves and returns."""
    async with (
        NumberedServer() as server,
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, _backend(server)) as agent,
    ):
        peer = await agent.connected()
        order = Order("job", 10, 300, pace_s=5.0)
        job = new_job(MODEL, request=json.encode(order.request()))
        await peer.give(job)
        await server.streaming(order.name)
        await peer.send(Drain("maintenance", 10_000))
        assert isinstance(await peer.end(job.job_id), JobResult)
        assert bytes(peer.data[job.job_id]) == bytes(server.only_run(order.name).sent)
        await peer.closed.wait()
        again = await agent.connected()
        later = new_job(MODEL, request=json.encode(Order("later").request()))
        await again.give(later)
        assert isinstance(await again.end(later.job_id), JobResult)
    return "finished there, left, came back when told"


def _backend(server: NumberedServer) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend(
        BackendSettings(
            kind=OpenAICompatibleBackend.kind,
            url=f"http://127.0.0.1:{server.port}",
            formats=(WireFormat.OPENAI,),
        )
    )
