"""Connecting to the coordinator fails for a while, then succeeds."""

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

DIALS = 24
"""Enough for the ceiling of the random waits to reach the cap, and for many waits after that."""

EARLY, LATE = 6, 12
"""How many of the first and of the last waits are averaged. Each wait is random, up to a ceiling.
The ceilings of the first waits are below the cap. The ceilings of the last waits equal the cap, so
these waits are half of it on average."""


async def connection_accepted_and_reset_repeatedly(scale: Scale) -> str:
    """Connections fail as at a load balancer without a coordinator behind it."""
    async with scenario_harness(scale.rng("drop"), dialect=scale.dialect) as harness:
        harness.link_proxy.connect_policy = ConnectPolicy.RESET
        waits = await _check_backoff(harness)
        harness.link_proxy.connect_policy = ConnectPolicy.FORWARD
        await harness.wait_for_agents()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
    return _summary(waits)


async def link_cut_after_each_welcome(scale: Scale) -> str:
    """The link breaks right after each `Welcome`, which must not reset the backoff."""
    async with scenario_harness(scale.rng("welcome"), dialect=scale.dialect) as harness:
        bytes_through_welcome = harness.link_proxy.connections[0].downstream.forwarded
        harness.link_proxy.on_connection = lambda connection: connection.downstream.cut_at(
            bytes_through_welcome
        )
        waits = await _check_backoff(harness)
        harness.link_proxy.on_connection = lambda _connection: None
        await harness.reconnect()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
    return _summary(waits)


async def _check_backoff(harness: ScenarioHarness) -> list[float]:
    """Cut the link, and return the waits before the next `DIALS` dials.

    Asserts that the waits are short at first, grow, stay below the cap, and have jitter.
    """
    accepted_at = harness.link_proxy.accepted_at
    accepted_at.clear()
    lost_at = now()
    harness.link_proxy.cut()
    await wait_until(lambda: len(accepted_at) >= DIALS, within_s=DIALS * CAP_S, every_s=CAP_S)
    waits = [later - earlier for earlier, later in pairwise([lost_at, *accepted_at[:DIALS]])]
    # The ceilings of the first two waits are 1 and 2 s; one second is a tolerance for the dials.
    assert max(waits[:2]) <= 2.0 + 1.0, f"the first waits are too long: {waits}"
    assert max(waits) <= CAP_S + 1.0, f"over the cap: {waits}"
    early, late = _mean(waits[:EARLY]), _mean(waits[-LATE:])
    assert late > max(CAP_S / 6, 2 * early), f"the waits do not grow: {waits}"
    assert len({round(wait, 1) for wait in waits}) > DIALS // 2, f"no jitter: {waits}"
    return waits


def _mean(waits: list[float]) -> float:
    return sum(waits) / len(waits)


def _summary(waits: list[float]) -> str:
    return (
        f"{len(waits)} dials: {_mean(waits[:EARLY]):.1f} s apart at first, "
        f"{_mean(waits[-LATE:]):.0f} s at last, {max(waits):.0f} s at most"
    )


async def first_url_unreachable(scale: Scale) -> str:
    """The first URL refuses connections; the agent uses its fallback URL."""
    async with FaultProxy() as second:
        settings = replace(SETTINGS, authorities=(second.authority,))
        async with scenario_harness(
            scale.rng("two"), settings, agents=0, dialect=scale.dialect
        ) as harness:
            second.target = harness.link_proxy.target
            harness.link_proxy.refuse()
            await harness.add_agent(fallback=second.authority)
            await harness.wait_for_agents()
            await harness.check_served(*(f"job-{n}" for n in range(scale.rounds)))
            await harness.wait_until_idle()
    return f"{scale.rounds} jobs ran over the fallback URL"


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
