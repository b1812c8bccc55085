"""The agent connects to its coordinator, and fails."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link.backoff import CAP_S
from provider_agent.protocol.frames import Capabilities
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, scenario_harness, wait_until
from tests.faults.scenarios.scenario import Scale
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import now

ATTEMPTS = 24


async def connection_accepted_and_reset_repeatedly(scale: Scale) -> str:
    """A load balancer has no coordinator behind it."""
    async with scenario_harness(scale.rng("drop")) as harness:
        harness.link.connect_policy = ConnectPolicy.RESET
        waits = await _check_backoff(harness)
        harness.link.connect_policy = ConnectPolicy.FORWARD
        await harness.wait_for_agents()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
    return _summary(waits)


async def link_cut_after_each_welcome(scale: Scale) -> str:
    """A coordinator crashes after each welcome, so a welcome must not reset the backoff."""
    async with scenario_harness(scale.rng("welcome")) as harness:
        welcome_bytes = harness.link.connections[0].downstream.forwarded
        harness.link.on_connection = lambda connection: connection.downstream.cut_at(welcome_bytes)
        waits = await _check_backoff(harness)
        harness.link.on_connection = lambda _connection: None
        await harness.reconnect()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
    return _summary(waits)


async def _check_backoff(harness: ScenarioHarness) -> list[float]:
    """Cut the link; return the agent's waits before each of the next `ATTEMPTS`."""
    accepted_at = harness.link.accepted_at
    accepted_at.clear()
    lost_at = now()
    harness.link.cut()
    await wait_until(lambda: len(accepted_at) >= ATTEMPTS, within_s=ATTEMPTS * CAP_S, every_s=CAP_S)
    waits = [later - earlier for earlier, later in pairwise([lost_at, *accepted_at[:ATTEMPTS]])]
    assert max(waits[:2]) <= 3.0, f"slow at first: {waits}"
    assert max(waits) <= CAP_S + 1.0, f"over the cap: {waits}"
    early, late = sum(waits[:6]) / 6, sum(waits[-12:]) / 12
    assert late > max(10.0, 2 * early), f"it does not grow: {waits}"
    assert len({round(wait, 1) for wait in waits}) > ATTEMPTS // 2, f"no jitter: {waits}"
    return waits


def _summary(waits: list[float]) -> str:
    early, late = sum(waits[:4]) / 4, sum(waits[-12:]) / 12
    return (
        f"{len(waits)} attempts: {early:.1f} s apart at first, {late:.0f} s at last, "
        f"{max(waits):.0f} s at most"
    )


async def first_coordinator_unreachable(scale: Scale) -> str:
    """The agent uses its fallback URL."""
    async with FaultProxy() as second:
        settings = replace(SETTINGS, authorities=(second.authority,))
        async with scenario_harness(scale.rng("two"), settings, agents=0) as harness:
            second.target = harness.link.target
            harness.link.refuse()
            await harness.add_agent(fallback=second.authority)
            await harness.wait_for_agents()
            await harness.check_served(*(f"job-{n}" for n in range(scale.rounds)))
            await harness.wait_until_idle()
    return f"{scale.rounds} jobs ran over the second one"


async def token_rotated(scale: Scale) -> str:
    """The coordinator requires another token; the operator writes it to the token file."""
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
                await wait_until(lambda: not coordinator.refusals)
                _write(token_file, "new")
                await (await agent.connected()).next(Capabilities)
            tokens = [upgrade["authorization"] for upgrade in coordinator.upgrades]
            assert tokens == ["Bearer old"] * 4 + ["Bearer new"], tokens
    return "401 three times, connected with the new token"


def _write(token_file: Path, token: str) -> None:
    token_file.write_text(f"{token}\n")
