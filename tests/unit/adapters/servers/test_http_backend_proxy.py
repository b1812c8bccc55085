"""Which requests go through a proxy of the environment."""

import pytest

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.registry import create_backend
from provider_agent.protocol.formats import Operation
from tests.kit.raw_jobs import FRAMES, job_for
from tests.kit.raw_server import RawServer, stream, whole
from tests.kit.sink import CollectingSink


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
async def test_requests_to_a_remote_service_go_through_the_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    sink = CollectingSink()
    replies = [whole({"data": [{"id": "m"}]}), stream(FRAMES[Operation.CHAT])]
    async with RawServer(replies) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        settings = BackendSettings(
            kind="openai_passthrough", url="http://service.invalid", api_key="k", models=("*",)
        )
        backend = create_backend(settings)
        assert (await backend.health()).reachable
        await backend.execute(job_for(Operation.CHAT), sink)
        await backend.close()

    assert sink.data == b"".join(FRAMES[Operation.CHAT])
    assert len(proxy.requests) == 2


async def test_job_of_a_local_server_ignores_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    sink = CollectingSink()
    async with RawServer([stream(FRAMES[Operation.CHAT])]) as server:
        backend = create_backend(BackendSettings(kind="openai_compatible", url=server.url))
        await backend.execute(job_for(Operation.CHAT), sink)
        await backend.close()

    assert sink.data == b"".join(FRAMES[Operation.CHAT])
