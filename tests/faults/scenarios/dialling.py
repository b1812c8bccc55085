"""The agent dials, and it does not go well."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link.backoff import CAP_S
from provider_agent.protocol.frames import Capabilities
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, harness, until
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import now

DIALS = 24


async def accepted_and_dropped_again_and_again(effort: Effort) -> str:
    """A load balancer without a coordinator behind it."""
    dice = effort.dice("drop")
    async with harness(dice) as play:
        play.link.connect_policy = ConnectPolicy.RESET
        waits = await _waits(play)
        play.link.connect_policy = ConnectPolicy.FORWARD
        await play.offers()
        (await play.clients.buy(Order("afterwards")).done()).check_complete(play.server)
        await play.idle()
    return _summary(waits)


async def welcomed_and_dropped_again_and_again(effort: Effort) -> str:
    """A coordinator that dies of every agent: being welcomed is not being healthy."""
    dice = effort.dice("welcome")
    async with harness(dice) as play:
        welcome_bytes = play.link.connections[0].downstream.forwarded
        play.link.on_connection = lambda connection: connection.downstream.cut_at(welcome_bytes)
        waits = await _waits(play)
        play.link.on_connection = lambda _connection: None
        await play.new_link()
        (await play.clients.buy(Order("afterwards")).done()).check_complete(play.server)
        await play.idle()
    return _summary(waits)


async def _waits(play: ScenarioHarness) -> list[float]:
    """Lose the link, and see how long the agent waits before each of `DIALS`."""
    play.link.accepted_at.clear()
    lost_at = now()
    play.link.cut()
    await until(lambda: len(play.link.accepted_at) >= DIALS, within_s=DIALS * CAP_S, every_s=CAP_S)
    dials = [lost_at, *play.link.accepted_at[:DIALS]]
    waits = [later - earlier for earlier, later in pairwise(dials)]
    assert max(waits[:2]) <= 3.0, f"slow at first: {waits}"
    assert max(waits) <= CAP_S + 1.0, f"over the cap: {waits}"
    early, late = sum(waits[:6]) / 6, sum(waits[-12:]) / 12
    assert late > max(10.0, 2 * early), f"it does not grow: {waits}"
    assert len({round(wait, 1) for wait in waits}) > DIALS // 2, f"no jitter: {waits}"
    return waits


def _summary(waits: list[float]) -> str:
    early, late = sum(waits[:4]) / 4, sum(waits[-12:]) / 12
    most = max(waits)
    return f"{len(waits)} dials: first {early:.1f} s apart, at last {late:.0f}, {most:.0f} at most"


async def first_coordinator_gone(effort: Effort) -> str:
    """The agent tries the second address of its settings."""
    async with FaultProxy() as second:
        settings = replace(SETTINGS, authorities=(second.authority,))
        async with harness(effort.dice("two"), settings, agents=0) as play:
            second.target = play.link.target
            play.link.refuse()
            await play.add_agent(fallback=second.authority)
            await play.offers()
            for n in range(effort.rounds):
                (await play.clients.buy(Order(f"job-{n}")).done()).check_complete(play.server)
            await play.idle()
    return f"{effort.rounds} jobs ran at the second one"


async def token_rotated(effort: Effort) -> str:
    """The coordinator wants another token; the operator writes it into the file, no restart."""
    with TemporaryDirectory() as folder:
        token_file = Path(folder, "token")
        _write(token_file, "old")
        async with ScriptedCoordinator() as coordinator:
            settings = CoordinatorConfig(url=coordinator.url, token_file=token_file)
            config = agent_config(coordinator.url, coordinator=settings)
            async with RunningAgent(coordinator, ScriptedBackend(), config=config) as agent:
                peer = await agent.connected()
                coordinator.refusals.extend([(401, {})] * 3)
                peer.cut()
                await until(lambda: not coordinator.refusals)
                _write(token_file, "new")
                await (await agent.connected()).next(Capabilities)
            tokens = [upgrade["authorization"] for upgrade in coordinator.upgrades]
            assert tokens == ["Bearer old"] * 4 + ["Bearer new"], tokens
    return "401 three times, back with the new token"


def _write(token_file: Path, token: str) -> None:
    token_file.write_text(f"{token}\n")
