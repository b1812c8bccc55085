import math

import pytest

from provider_agent.adapters.base import (
    BackendHealth,
    ModelServerLoad,
    ModelState,
    ServerLoad,
    Unreachable,
)
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.model_use import JobTiming
from provider_agent.agent.telemetry.backend_loads import MAX_MODELS_BYTES, backend_loads
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import BackendLoad, Heartbeat, ModelLoad
from provider_agent.protocol.limits import MAX_MODEL_LOADS, MIB
from tests.kit.discovery_harness import find_monitor
from tests.kit.fake_clock import FakeClock
from tests.kit.scripted_backend import ScriptedBackend, model

LOADED = ModelServerLoad(
    ModelState.LOADED,
    running=3,
    waiting=2,
    cache_used=0.5,
    prefill_tokens_per_second=900.0,
    decode_tokens_per_second=90.0,
)
TIMING = JobTiming(1000, None, 101, 2.0, 4.0)


class LoadsHarness:
    """The loads of scripted backends."""

    def __init__(self, *backends: ScriptedBackend) -> None:
        self.discovery = Discovery(
            Backends(list(backends), {}, []), lambda: None, clock=FakeClock()
        )

    async def loads(self) -> list[BackendLoad]:
        await self.discovery.check_all()
        return backend_loads(self.discovery.monitors)

    async def models(self) -> dict[str, ModelLoad]:
        (load,) = await self.loads()
        return {one.model_id: one for one in load.models}


async def test_values_of_the_server_take_precedence_over_measured_ones() -> None:
    backend = ScriptedBackend("b", model("reported"), model("measured"))
    backend.reported_load = ServerLoad(4, 2, 0.25, {"reported": LOADED})
    harness = LoadsHarness(backend)
    monitor = find_monitor(harness.discovery, "b")
    for name in ("reported", "measured"):
        monitor.model_use.measured(name, TIMING)
    monitor.start("measured")

    (load,) = await harness.loads()

    assert (load.running, load.waiting, load.cache_used) == (4, 2, 0.25)
    assert load.models == [
        ModelLoad("measured", "", 1, None, None, None, 500.0, 50.0),
        ModelLoad("reported", "loaded", 0, 3, 2, 0.5, 900.0, 90.0),
    ]


async def test_invalid_values_of_a_server_are_left_out() -> None:
    # A heartbeat with such a value would be a violation, which ends the link and all its jobs.
    backend = ScriptedBackend("b", model("m"))
    wrong = ModelServerLoad(ModelState.COLD, -1, 2**60, math.nan, -1.0, math.inf)
    backend.reported_load = ServerLoad(-1, 2**60, 1.5, {"m": wrong, "unknown": LOADED})

    loads = await LoadsHarness(backend).loads()

    assert loads == [BackendLoad("b", True, 0, 8, models=[ModelLoad("m", "cold", 0)])]
    beat = Heartbeat(0, 0, 8, None, None, None, None, loads)
    assert VERSION_1.decode_from_agent(VERSION_1.encode([beat]), MIB).frames == [beat]


async def test_models_of_a_backend_that_went_down_stay_listed() -> None:
    backend = ScriptedBackend("b", model("m"))
    harness = LoadsHarness(backend)
    assert await harness.models() == {}  # nothing is known about an unused model

    states = []
    for loading in (True, False):
        backend.reported_health = BackendHealth(False, None, "503", loading=loading)
        states.append((await harness.models())["m"].state)

    assert states == ["loading", "down"]


async def test_models_behind_an_open_breaker_are_down() -> None:
    backend = ScriptedBackend("b", model("m"))
    backend.reported_load = ServerLoad(models={"m": LOADED})
    harness = LoadsHarness(backend)
    await harness.models()
    for number in range(5):
        attempt = find_monitor(harness.discovery, "b").start("m")
        attempt.failed(Unreachable("refused"), request=number)

    assert (await harness.models())["m"].state == "down"


@pytest.mark.parametrize("native", [True, False])
async def test_a_passthrough_lists_only_used_models(native: bool) -> None:
    backend = ScriptedBackend("b", *(model(name) for name in ("a", "b", "c")))
    backend.native = native  # type: ignore[misc]
    backend.reported_load = ServerLoad(models=dict.fromkeys(["a", "b", "c"], LOADED))
    harness = LoadsHarness(backend)
    find_monitor(harness.discovery, "b").start("c")

    assert list(await harness.models()) == (["c", "a", "b"] if native else ["c"])


async def test_number_and_size_of_the_models_are_bounded() -> None:
    names = [f"{number:04}{'é' * 300}" for number in range(MAX_MODEL_LOADS + 1)]
    backends = [ScriptedBackend(str(number), *map(model, names)) for number in range(9)]
    for backend in backends:
        backend.reported_load = ServerLoad(models=dict.fromkeys(names, LOADED))

    loads = await LoadsHarness(*backends).loads()

    assert len(loads[0].models) == MAX_MODEL_LOADS
    assert len(loads) == len(backends)
    beat = Heartbeat(0, 0, 8, None, None, None, None, loads)
    # All fields but the models need less than 16 KiB.
    assert len(VERSION_1.encode([beat])) < MAX_MODELS_BYTES + 16_384
