"""A scripted coordinator repeats a job, or sends `Drain` while a job runs."""

import asyncio

from msgspec import json

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.frames import Drain, JobResult
from tests.faults.scenarios.numbered_server import MODEL, NumberedServer, RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_coordinator import ScriptedCoordinator

RECONNECT_AFTER_MS = 10_000


async def job_delivered_repeatedly(scale: Scale) -> str:
    """A job that is repeated (at once, while it runs, after its end) runs only once."""
    async with (
        NumberedServer() as server,
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, _backend(server)) as agent,
    ):
        peer = await agent.connected()
        for n in range(scale.rounds):
            spec = RequestSpec(f"job-{n}", 10, 300, pace_s=1.0)
            job = new_job(MODEL, request=json.encode(spec.request()))
            await peer.send_jobs(job)
            await peer.send(job, job)
            await server.wait_for_bytes(spec.name)
            await peer.send(job)
            assert isinstance(await peer.end(job.job_id), JobResult)
            await peer.send(job)
            await peer.settle()
            assert bytes(peer.data[job.job_id]) == bytes(server.only_run(spec.name).sent)
            assert len(peer.ends(job.job_id)) == 1
    return f"{scale.rounds} jobs, five times each, ran once each"


async def drain_with_running_jobs(scale: Scale) -> str:
    """A running job finishes on the draining link; the agent reconnects after the delay."""
    loop = asyncio.get_running_loop()
    async with (
        NumberedServer() as server,
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, _backend(server)) as agent,
    ):
        peer = await agent.connected()
        spec = RequestSpec("job", 10, 300, pace_s=5.0)
        job = new_job(MODEL, request=json.encode(spec.request()))
        await peer.send_jobs(job)
        await server.wait_for_bytes(spec.name)
        await peer.send(Drain("maintenance", RECONNECT_AFTER_MS))
        assert isinstance(await peer.end(job.job_id), JobResult)
        assert bytes(peer.data[job.job_id]) == bytes(server.only_run(spec.name).sent)
        await peer.closed.wait()
        closed_at = loop.time()
        reconnected = await agent.connected()
        assert loop.time() - closed_at >= RECONNECT_AFTER_MS / 1000
        later = new_job(MODEL, request=json.encode(RequestSpec("later").request()))
        await reconnected.send_jobs(later)
        assert isinstance(await reconnected.end(later.job_id), JobResult)
    return "job finished, agent disconnected, reconnected after the delay"


def _backend(server: NumberedServer) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend(
        BackendSettings(
            kind=OpenAICompatibleBackend.kind,
            url=f"http://127.0.0.1:{server.port}",
            formats=(WireFormat.OPENAI,),
        )
    )
