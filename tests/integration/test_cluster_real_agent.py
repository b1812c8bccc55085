"""The real agent behind an address that changes from one coordinator to another."""

import asyncio
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from tests.kit.agent_config import agent_config
from tests.kit.cluster_harness import cluster_harness, member_of, wait_until
from tests.kit.coordinator_harness import NO_HEARTBEATS
from tests.kit.fault_proxy import FaultProxy
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_stream_continues_at_another_coordinator(is_stopped: bool) -> None:
    async with FaultProxy() as proxy, cluster_harness() as cluster:
        settings = replace(NO_HEARTBEATS, authorities=(proxy.authority,), drain_s=2)
        first, second, edge = [await cluster.start(settings) for _ in range(3)]
        proxy.target = urlsplit(first.connect_url).port or 0
        backend = ScriptedBackend("scripted:http://b", model("tiny"))
        client = await cluster.client(edge)
        config = agent_config(f"ws://{proxy.authority}/provider/connect")
        async with RunningAgent(None, backend, config=config):
            await wait_until(lambda: bool(member_of(edge).agents()))
            await wait_until(lambda: len(member_of(second).view) == 2)
            asking = asyncio.create_task(cluster.ask(client))
            run = await backend.next_run()
            run.start()
            run.send(b"data: 1\n\n")
            response = await asking
            assert await response.content.readexactly(9) == b"data: 1\n\n"
            proxy.target = urlsplit(second.connect_url).port or 0
            stopping = asyncio.create_task(first.stop()) if is_stopped else None
            if stopping is None:
                proxy.cut()
            run.send(b"data: 2\n\n")
            await wait_until(lambda: bool(second.agents()))
            run.send(b"data: 3\n\n")
            run.finish()
            assert await response.read() == b"data: 2\n\ndata: 3\n\n"
            if stopping is not None:
                await stopping
