import pytest

from provider_agent.adapters.base import Operation, Transport, WireFormat
from provider_agent.adapters.servers import probe_cache
from provider_agent.adapters.servers.probe_cache import ProbeCache
from tests.kit.fakes import FakeLlamaCpp, FakeLmStudio, FakeOpenAICompatible, FakeServer, FakeVllm
from tests.unit.adapters.conftest import Connect

CHAT = frozenset({Operation.CHAT})


class FakeProbe:
    """Counts its calls; raises `error` if it is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self) -> frozenset[Operation]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return CHAT


async def test_each_build_is_probed_once() -> None:
    cache, probe = ProbeCache(), FakeProbe()
    assert cache.cached("1.0") is None

    for build in ("1.0", "1.0", "1.1", "1.0"):
        assert await cache.get(build, probe) == CHAT

    assert probe.calls == 2
    assert cache.cached("1.0") == CHAT


async def test_failed_probe_is_not_cached() -> None:
    cache, probe = ProbeCache(), FakeProbe()
    probe.error = Transport("gone")
    with pytest.raises(Transport):
        await cache.get("1.0", probe)
    probe.error = None

    assert await cache.get("1.0", probe) == CHAT


async def test_entry_expires_after_its_ttl() -> None:
    now = 0.0
    cache, probe = ProbeCache(ttl_s=10.0, clock=lambda: now), FakeProbe()
    await cache.get("", probe)

    now = 9.9
    assert cache.cached("") == CHAT
    now = 10.0
    assert cache.cached("") is None
    await cache.get("", probe)

    assert probe.calls == 2


async def test_oldest_entry_is_evicted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_cache, "MAX_ENTRIES", 2)
    cache, probe = ProbeCache(), FakeProbe()

    for build in ("1", "2", "3"):
        await cache.get(build, probe)

    assert [cache.cached(build) for build in ("1", "2", "3")] == [None, CHAT, CHAT]


@pytest.mark.parametrize("fake", [FakeLlamaCpp, FakeLmStudio, FakeOpenAICompatible, FakeVllm])
async def test_each_probe_asks_for_at_most_one_token(
    fake: type[FakeServer], connect: Connect
) -> None:
    async with fake() as server:
        formats = frozenset(WireFormat) if fake is FakeOpenAICompatible else None
        await connect(server, formats=formats).list_models()

        limits = {
            request.operation: request.json.get("max_tokens", request.json.get("max_output_tokens"))
            for request in server.requests
            if request.method == "POST"
        }

    unlimited = {operation for operation, limit in limits.items() if limit != 1}
    assert len(limits) > 2
    assert unlimited <= {Operation.EMBEDDINGS, Operation.COUNT_TOKENS}
