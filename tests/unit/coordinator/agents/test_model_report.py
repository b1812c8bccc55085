import math

import pytest

from provider_agent.coordinator.agents.model_report import (
    MAX_MODELS_READ,
    ModelReport,
    loads_by_model,
    model_report,
    without_excess_models,
)
from provider_agent.protocol.frames import BackendLoad, Heartbeat, ModelLoad


def heartbeat(*backends: BackendLoad) -> Heartbeat:
    return Heartbeat(0, 0, 8, None, None, None, None, list(backends))


def reports(frame: Heartbeat) -> dict[str, ModelReport]:
    return {name: model_report(loads) for name, loads in loads_by_model(frame).items()}


def load(state: str = "loaded", /, **known: float) -> ModelLoad:
    return ModelLoad("m", state, **{"in_flight": 0, **known})  # type: ignore[arg-type]


def backend(model: ModelLoad, *, healthy: bool = True, **known: float) -> BackendLoad:
    fields = {"in_flight": 0, "capacity": 4, **known}
    return BackendLoad("b", healthy, models=[model], **fields)  # type: ignore[arg-type]


SPEEDS = {"prefill_tokens_per_second": 500.0, "decode_tokens_per_second": 50.0}
SLOW = {"prefill_tokens_per_second": 100.0, "decode_tokens_per_second": 10.0}


@pytest.mark.parametrize(
    ("backends", "report"),
    [
        ([backend(load())], ModelReport()),
        ([backend(load(**SPEEDS))], ModelReport(job_s=6.0)),
        ([backend(load(prefill_tokens_per_second=500.0))], ModelReport()),
        ([backend(load("cold"))], ModelReport(is_cold=True)),
        ([backend(load("loading"))], ModelReport(is_cold=True)),
        ([backend(load("")), backend(load("warming up"))], ModelReport()),
        ([backend(load("down"))], ModelReport(is_down=True)),
        ([backend(load(), healthy=False)], ModelReport(is_down=True)),
        ([backend(load("down")), backend(load(cache_used=0.5))], ModelReport(cache_used=0.5)),
        ([backend(load(), running=5, waiting=2, in_flight=3)], ModelReport(4)),
        ([backend(load(running=2, in_flight=1), running=9)], ModelReport(1)),
        ([backend(load(), running=1, in_flight=3)], ModelReport(0)),
        ([backend(load(), cache_used=0.9)], ModelReport(cache_used=0.9)),
        (
            [
                backend(load(**SPEEDS), running=1, cache_used=0.2),
                backend(load("cold", **SLOW), running=2, cache_used=0.1),
            ],
            ModelReport(3, 0.2, is_cold=True, job_s=30.0),
        ),
        ([backend(load(**SPEEDS)), backend(load())], ModelReport()),
    ],
)
def test_report_combines_the_backends_that_are_not_down(
    backends: list[BackendLoad], report: ModelReport
) -> None:
    assert reports(heartbeat(*backends)) == {"m": report}


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_speed_counts_as_not_reported(speed: float) -> None:
    model = load(prefill_tokens_per_second=speed, decode_tokens_per_second=50.0)

    assert reports(heartbeat(backend(model))) == {"m": ModelReport()}


@pytest.mark.parametrize("share", [-1.0, 1.5, math.nan, math.inf])
def test_an_impossible_cache_share_counts_as_not_reported(share: float) -> None:
    # Regression: a NaN of the first backend hid the full cache of the second.
    first = backend(load(cache_used=share))

    assert reports(heartbeat(first)) == {"m": ModelReport()}
    assert reports(heartbeat(first, backend(load(cache_used=0.9)))) == {
        "m": ModelReport(cache_used=0.9)
    }


def test_models_of_a_heartbeat_are_bounded() -> None:
    # The protocol allows 256 models for each of 1,024 backends.
    full = BackendLoad("b", True, 0, 4, models=[load()] * 256)
    fitting = heartbeat(*[full] * (MAX_MODELS_READ // 256))
    excessive = heartbeat(*[full] * 1024)

    assert without_excess_models(fitting) is fitting
    bounded = without_excess_models(excessive)
    assert len(bounded.backends) == 1024
    assert sum(len(one.models) for one in bounded.backends) == MAX_MODELS_READ
