import pytest

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.dialect import USEPOD, dialect_of

VERSION_1 = "provider-agent.v1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://api.usepod.ai/provider/connect", USEPOD),
        ("wss://API.UsePod.ai:443/provider/connect", USEPOD),
        ("wss://api.usepod.ai./provider/connect?x=1", USEPOD),
        ("wss://api.usepod.ai/other", VERSION_1),
        ("wss://other.usepod.ai/provider/connect", VERSION_1),
        ("wss://api.usepod.ai.example/provider/connect", VERSION_1),
        ("ws://127.0.0.1:8080/provider/connect", VERSION_1),
    ],
)
def test_the_address_decides_by_default(url: str, expected: str) -> None:
    assert dialect_of(CoordinatorConfig(url=url), url) == expected


def test_the_setting_decides_for_every_address() -> None:
    known, other = "wss://api.usepod.ai/provider/connect", "wss://other.example/provider/connect"
    usepod = CoordinatorConfig(url=other, dialect="usepod")
    version_1 = CoordinatorConfig(url=known, dialect="provider-agent.v1")

    assert [dialect_of(usepod, url) for url in (known, other)] == [USEPOD, USEPOD]
    assert [dialect_of(version_1, url) for url in (known, other)] == [VERSION_1, VERSION_1]
