import pytest

from provider_agent.adapters.base import Operation, Transport
from provider_agent.adapters.servers import probe_cache as remembered
from provider_agent.adapters.servers.probe_cache import ProbeCache

CHAT = frozenset({Operation.CHAT})


class Probe:
    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self) -> frozenset[Operation]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return CHAT


async def test_a_build_is_asked_once_and_another_one_again() -> None:
    cache, probe = ProbeCache(), Probe()
    assert cache.cached("1.0") is None

    for build in ("1.0", "1.0", "1.1", "1.0"):
        assert await cache.get(build, probe) == CHAT

    assert probe.asked == 2
    assert cache.cached("1.0") == CHAT


async def test_a_failed_probe_is_not_remembered() -> None:
    cache, probe = ProbeCache(), Probe()
    probe.error = Transport("gone")
    with pytest.raises(Transport):
        await cache.get("1.0", probe)
    probe.error = None

    assert await cache.get("1.0", probe) == CHAT


async def test_an_answer_for_an_unknown_build_holds_for_a_while() -> None:
    now = 0.0
    cache, probe = ProbeCache(ttl_s=10.0, clock=lambda: now), Probe()
    await cache.get("", probe)

    now = 9.9
    assert cache.cached("") == CHAT
    now = 10.0
    assert cache.cached("") is None
    await cache.get("", probe)

    assert probe.asked == 2


async def test_the_oldest_answer_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_ENTRIES", 2)
    cache, probe = ProbeCache(), Probe()

    for build in ("1", "2", "3"):
        await cache.get(build, probe)

    assert [cache.cached(build) for build in ("1", "2", "3")] == [None, CHAT, CHAT]
