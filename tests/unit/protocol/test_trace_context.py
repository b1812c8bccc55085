import pytest

from provider_agent.protocol.trace_context import is_traceparent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_traceparent_is_one() -> None:
    assert is_traceparent(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\r\nX-Evil: 1",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        "ff" + GOOD[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        GOOD * 9,
        "x" * 512,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_traceparent(text)
