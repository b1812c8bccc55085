import pytest

from provider_agent.agent.telemetry.host_check import HostCheck


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8490",
        "[::1]:8490",
        "localhost:8490",
        "LOCALHOST",
        "localhost.:8490",
        "agent.localhost:8490",
        "10.1.2.3:8490",
        "agent.example",
        "agent.example:443",
    ],
)
def test_addresses_local_names_and_allowed_names_are_answered(host: str) -> None:
    check = HostCheck("127.0.0.1", ["agent.example"])
    assert check.accepts(host, None)
    assert check.accepts(host, f"http://{host}")


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example:8490",
        "127.0.0.1.rebound.example",
        "localhost.rebound.example:8490",
        "rebound.local",
        "agent",
        "",
        ":8490",
        "[::1",
        "a b",
        "agent.example@rebound.example",
    ],
)
def test_other_names_are_not_answered_on_loopback(host: str) -> None:
    assert not HostCheck("127.0.0.1", ["agent.example"]).accepts(host, None)
    assert not HostCheck("localhost").accepts(host, None)


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("10.1.2.3:8490", True),
        ("[fd00::1]:8490", True),
        ("agent:8490", True),
        ("agent.monitoring.svc:8490", True),
        ("agent.monitoring.svc.cluster.local:8490", True),
        ("gpu.lan", True),
        ("rebound.example:8490", False),
    ],
)
def test_server_beyond_loopback_answers_for_names_of_private_networks(
    host: str, answered: bool
) -> None:
    assert HostCheck("0.0.0.0").accepts(host, None) == answered


def test_name_that_the_server_listens_on_is_answered() -> None:
    assert HostCheck("GPU1.example.com").accepts("gpu1.example.com:8490", None)


@pytest.mark.parametrize(
    "origin", ["http://other.example", "null", "https://127.0.0.1:8490", "http://127.0.0.1:3000"]
)
def test_request_of_another_origin_is_not_answered(origin: str) -> None:
    assert not HostCheck("127.0.0.1").accepts("127.0.0.1:8490", origin)


def test_request_without_host_comes_from_no_browser() -> None:
    check = HostCheck("127.0.0.1")
    assert check.accepts(None, None)
    assert not check.accepts(None, "http://127.0.0.1")
