import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import InvalidResponse
from provider_agent.adapters.servers.prometheus_text import read_metrics

TEXT = b"""\
# HELP a:running What runs. a:running 7
# TYPE a:running gauge
a:running{engine="0",model_name="x y"} 3.0
a:running{engine="1",model_name="{}"} 2 1700000000
a:running { engine = "2" , model_name="a\\"},b\\\\", } 4
a:running_by_reason{reason="a"} 9
a:waiting 1e1
a:cache NaN
a:cache{engine="1"} +Inf
a:cache{} 1e400
broken line of another metric {
"""


def test_finite_values_of_requested_metrics_are_read() -> None:
    found = read_metrics(TEXT, ("a:running", "a:waiting", "a:cache", "a:none"))

    assert found == {"a:running": [3.0, 2.0, 4.0], "a:waiting": [10.0]}


@pytest.mark.parametrize(
    "line",
    [
        b"a many",
        b'a{x="1} 2',
        b"a{x=1} 3",
        b'a{"} 1',
        b"a ",
        b"a 1 2 3",
        b"a 1 x",
        b'a{x="1" y="2"} 3',
    ],
)
def test_malformed_line_of_a_requested_metric_is_an_error(line: bytes) -> None:
    with pytest.raises(InvalidResponse):
        read_metrics(line, ("a",))


@given(st.binary(max_size=200))
def test_arbitrary_text_is_parsed_or_invalid(rest: bytes) -> None:
    try:
        found = read_metrics(b"a{" + rest + b"\na " + rest, ("a",))
    except InvalidResponse:
        return
    assert set(found) <= {"a"}


def test_long_label_takes_little_memory() -> None:
    # The pattern kept a state for each character: 8 MB took a gigabyte.
    line = b'a:running{model_name="' + b"x" * 200_000 + b'"} 1'
    tracemalloc.start()
    try:
        assert read_metrics(line, ["a:running"]) == {"a:running": [1.0]}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(line)
