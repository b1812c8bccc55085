import re

import pytest

from provider_agent.agent.cli.setup.addresses import Marketplace, marketplace_at

USEPOD = Marketplace(
    "https://api.usepod.ai",
    "wss://api.usepod.ai/provider/connect",
    "https://usepod.ai/host/pair",
)
OTHER = Marketplace(
    "https://pod.example:8443/eu",
    "wss://pod.example:8443/eu/provider/connect",
    "https://pod.example:8443/eu/host/pair",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.usepod.ai", USEPOD),
        (" https://api.usepod.ai/ ", USEPOD),
        ("wss://api.usepod.ai/provider/connect", USEPOD),
        ("HTTPS://api.usepod.ai", USEPOD),
        ("https://pod.example:8443/eu", OTHER),
        ("wss://pod.example:8443/eu/provider/connect/", OTHER),
        (
            "http://127.0.0.1:8080",
            Marketplace(
                "http://127.0.0.1:8080",
                "ws://127.0.0.1:8080/provider/connect",
                "http://127.0.0.1:8080/host/pair",
            ),
        ),
    ],
)
def test_all_addresses_follow_from_one(text: str, expected: Marketplace) -> None:
    assert marketplace_at(text, allow_insecure=False) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api.usepod.ai", "not an address; write it with its scheme, such as https://api."),
        ("https://", "expected an address"),
        ("ftp://pod.example", "not an address; write it with its scheme, such as https://api."),
        ("http://[pod", "http:// would pair this agent unencrypted"),
        ("https://user:pass@pod.example", "must not contain a user or password"),
        ("https://pod.example?x=1", 'must not contain "?"'),
        ("https://pod.example:99999", "not an address"),
        ("http://10.0.0.1", "http:// would pair this agent unencrypted; use https://, or add"),
        ("ws://pod.example/provider/connect", "ws:// would send prompts unencrypted"),
    ],
)
def test_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        marketplace_at(text, allow_insecure=False)


def test_unencrypted_connections_need_permission() -> None:
    assert marketplace_at("http://10.0.0.1", allow_insecure=True).api_url == "http://10.0.0.1"
