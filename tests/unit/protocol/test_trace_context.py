import pytest

from provider_agent.protocol.trace_context import is_traceparent

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_valid_traceparent_is_accepted() -> None:
    assert is_traceparent(VALID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALID + "\r\nX-Evil: 1",
        VALID + "\n",
        " " + VALID,
        VALID.upper(),
        "ff" + VALID[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        VALID * 9,
        "x" * 512,
    ],
)
def test_an_invalid_traceparent_is_rejected(text: str) -> None:
    assert not is_traceparent(text)
