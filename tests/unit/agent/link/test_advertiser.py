import asyncio

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.advertiser import DEBOUNCE_S, Advertiser
from provider_agent.protocol.frames import AgentFrame, AgentLimits, Capabilities
from tests.kit.virtual_time import in_virtual_time


class AdvertiserHarness:
    """An advertiser with an outbox; `connected` is set while there is a link."""

    def __init__(self, *, connected: bool = True) -> None:
        self.outbox = Outbox()
        self.connected = asyncio.Event()
        if connected:
            self.connected.set()
        self.advertiser = Advertiser(
            self.outbox,
            self.connected,
            lambda revision: Capabilities(revision, [], AgentLimits(8)),
        )

    def sent(self) -> list[AgentFrame]:
        return self.outbox.next_batch()


@in_virtual_time
async def test_scheduled_changes_are_sent_as_one_frame_after_the_debounce_time() -> None:
    harness = AdvertiserHarness()
    harness.advertiser.schedule()
    await asyncio.sleep(DEBOUNCE_S / 2)
    harness.advertiser.schedule()
    assert harness.sent() == []
    assert repr(harness.advertiser) == "<Advertiser revision=0 pending=True>"
    await asyncio.sleep(DEBOUNCE_S / 2)
    assert harness.sent() == [Capabilities(1, [], AgentLimits(8))]
    await asyncio.sleep(DEBOUNCE_S)
    assert harness.sent() == []


@in_virtual_time
async def test_send_replaces_a_scheduled_change() -> None:
    harness = AdvertiserHarness()
    harness.advertiser.schedule()
    harness.advertiser.send()
    assert harness.sent() == [Capabilities(1, [], AgentLimits(8))]
    await asyncio.sleep(2 * DEBOUNCE_S)
    assert harness.sent() == []


@in_virtual_time
async def test_nothing_is_sent_and_no_revision_used_without_a_link() -> None:
    harness = AdvertiserHarness(connected=False)
    harness.advertiser.schedule()
    await asyncio.sleep(2 * DEBOUNCE_S)
    assert harness.sent() == []
    harness.connected.set()
    harness.advertiser.send()
    assert harness.sent() == [Capabilities(1, [], AgentLimits(8))]


@in_virtual_time
async def test_cancelled_change_is_not_sent() -> None:
    harness = AdvertiserHarness()
    harness.advertiser.schedule()
    harness.advertiser.cancel()
    await asyncio.sleep(2 * DEBOUNCE_S)
    assert harness.sent() == []
