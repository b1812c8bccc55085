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
    spoken, probe = ProbeCache(), Probe()
    assert spoken.known("1.0") is None

    for build in ("1.0", "1.0", "1.1", "1.0"):
        assert await spoken.get(build, probe) == CHAT

    assert probe.asked == 2
    assert spoken.known("1.0") == CHAT


async def test_a_failed_probe_is_not_remembered() -> None:
    spoken, probe = ProbeCache(), Probe()
    probe.error = Transport("gone")
    with pytest.raises(Transport):
        await spoken.get("1.0", probe)
    probe.error = None

    assert await spoken.get("1.0", probe) == CHAT


async def test_an_answer_for_an_unknown_build_holds_for_a_while() -> None:
    now = 0.0
    spoken, probe = ProbeCache(holds_s=10.0, clock=lambda: now), Probe()
    await spoken.get("", probe)

    now = 9.9
    assert spoken.known("") == CHAT
    now = 10.0
    assert spoken.known("") is None
    await spoken.get("", probe)

    assert probe.asked == 2


async def test_the_oldest_answer_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_REMEMBERED", 2)
    spoken, probe = ProbeCache(), Probe()

    for build in ("1", "2", "3"):
        await spoken.get(build, probe)

    assert [spoken.known(build) for build in ("1", "2", "3")] == [None, CHAT, CHAT]
