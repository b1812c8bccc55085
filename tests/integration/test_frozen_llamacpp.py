"""A real llama.cpp that is stopped with SIGSTOP while jobs run."""

import asyncio
import os
import signal

import pytest

from provider_agent.adapters.base import BackendSettings, BackendTimeout, TimeoutSettings
from provider_agent.adapters.servers.llamacpp import LlamaCppBackend
from provider_agent.agent.backends import health_monitor
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from tests.kit.jobs import new_job
from tests.kit.llamacpp import LlamaCppFactory
from tests.kit.sink import CollectingSink


async def test_stopped_server_is_down_until_it_continues(
    llamacpp_factory: LlamaCppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_monitor, "LOAD_INTERVAL_S", 0.5)
    server = await llamacpp_factory()
    settings = BackendSettings(
        kind="llamacpp", url=server.url, timeouts=TimeoutSettings(stall_s=1.0)
    )
    backend = LlamaCppBackend(settings)
    changed = asyncio.Event()
    discovery = Discovery(Backends([backend], {}, []), changed.set)
    running = asyncio.create_task(discovery.run())
    # The first health check also reads the server's progress: without it, no stall is detected.
    await changed.wait()
    (route,) = discovery.routes("tiny")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        attempt = discovery.start(route)
        with pytest.raises(BackendTimeout, match="processed no token") as caught:
            await backend.execute(new_job("tiny"), CollectingSink())
        attempt.failed(caught.value)
        assert discovery.routes("tiny") == []
        changed.clear()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    while not discovery.routes("tiny"):
        await changed.wait()
        changed.clear()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await discovery.close()
