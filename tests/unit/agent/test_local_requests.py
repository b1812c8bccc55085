import pytest

from provider_agent.agent.local_requests import is_local


@pytest.mark.parametrize(
    ("peer", "host", "local"),
    [
        ("127.0.0.1", "127.0.0.1:8490", True),
        ("127.0.0.1", "localhost:8490", True),
        ("127.8.8.8", "LOCALHOST", True),
        ("::1", "[::1]:8490", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("10.0.0.7", "127.0.0.1:8490", False),
        ("127.0.0.1", "attacker.example:8490", False),
        ("127.0.0.1", "127.0.0.1.attacker.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", None, False),
        (None, "localhost", False),
        ("not an address", "localhost", False),
    ],
)
def test_local_request_has_a_loopback_peer_and_host(
    peer: str | None, host: str | None, local: bool
) -> None:
    assert is_local(peer, {} if host is None else {"Host": host}) is local


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"])
def test_request_that_a_proxy_has_forwarded_is_not_local(name: str) -> None:
    assert not is_local("127.0.0.1", {"Host": "127.0.0.1:8490", name: "127.0.0.1"})
