"""The service signals changes of its status, so that nothing has to poll it."""

from provider_agent.agent.availability.availability import Pause
from provider_agent.agent.availability.hours import AGENT
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.service import EXIT_OK, Service
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time


async def wait_for_link(service: Service, link: LinkState) -> None:
    while service.status().link != link:
        service.changed.clear()
        await service.changed.wait()


@in_virtual_time
async def test_link_pause_and_drain_are_signalled() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            service = agent.service
            await wait_for_link(service, LinkState.CONNECTED)
            service.changed.clear()
            service.hours.pauses = {AGENT: Pause()}
            service.hours.check()
            assert service.changed.is_set()
            await wait_for_link(service, LinkState.DISCONNECTED)
            service.changed.clear()
            service.hours.check()
            assert not service.changed.is_set()
            service.stop()
            assert service.changed.is_set()
            assert await agent.task == EXIT_OK
