import msgspec
import pytest

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.coordinator.settings import (
    RANGES,
    CoordinatorSettings,
    ExtraDialect,
    accepted_authorities,
    check_settings,
    is_loopback,
    is_wildcard,
    parse_authority,
)

SECRETS = SecretSet(["secret"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
        ("localhost.example", False),
    ],
)
def test_loopback_hosts_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_wildcard_hosts_are_recognized() -> None:
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "", "::1")] == [True, True, True, False]


def test_coordinator_that_is_open_to_everyone_must_listen_on_loopback() -> None:
    check_settings(CoordinatorSettings())
    open_to_all = CoordinatorSettings(host="0.0.0.0")
    with pytest.raises(SettingsError, match="--api-keys"):
        check_settings(open_to_all)
    with pytest.raises(SettingsError, match="--enrollment-codes"):
        check_settings(msgspec.structs.replace(open_to_all, api_keys=SECRETS))
    check_settings(CoordinatorSettings(host="0.0.0.0", api_keys=SECRETS, enrollment_codes=SECRETS))
    check_settings(
        CoordinatorSettings(host="0.0.0.0", api_keys=SECRETS, agent_keys=frozenset([bytes(32)]))
    )


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (CoordinatorSettings(port=70_000), "port"),
        (CoordinatorSettings(window_bytes=1), "window_bytes"),
        (CoordinatorSettings(heartbeat_ms=1), "heartbeat_ms"),
        (CoordinatorSettings(deadline_s=1e9), "deadline_s"),
        (CoordinatorSettings(max_request_bytes=2**40), "max_request_bytes"),
        (CoordinatorSettings(max_attempts=0), "max_attempts"),
        (CoordinatorSettings(max_requests_per_minute=0), "max_requests_per_minute"),
        (CoordinatorSettings(max_tokens_per_minute=10**10), "max_tokens_per_minute"),
        (CoordinatorSettings(drain_s=-1), "drain_s: -1 is not between 0 and 86400"),
        (CoordinatorSettings(drain_s=float("nan")), "drain_s"),
        (CoordinatorSettings(keep_alive_s=float("inf")), "keep_alive_s"),
        (CoordinatorSettings(max_connections=0), "max_connections"),
        (CoordinatorSettings(max_held_request_bytes=1000), "max_request_bytes"),
        (CoordinatorSettings(trusted_proxies=("proxy",)), "trusted proxy 'proxy': expected an IP"),
        (CoordinatorSettings(trusted_proxies=("10.0.0.1/8",)), "such as 10.0.0.0/8"),
        (CoordinatorSettings(agent_keys=frozenset()), "agent_keys"),
        (CoordinatorSettings(api_keys=SecretSet([])), "api_keys"),
        (CoordinatorSettings(authorities=("http://:1",)), "authority"),
        (
            CoordinatorSettings(
                dialects=frozenset({ExtraDialect.USEPOD}),
                cluster=ClusterSettings(urls=("nats://localhost:4222",)),
            ),
            "--dialect usepod does not work with --cluster",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_names_the_invalid_setting(settings: CoordinatorSettings, name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        check_settings(settings)


def test_every_number_has_a_range() -> None:
    numbers = {
        field.name
        for field in msgspec.structs.fields(CoordinatorSettings)
        if field.type in (int, float, int | None, float | None)
    }
    assert numbers == RANGES.keys()


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("Coordinator.Example:8443", "coordinator.example:8443"),
        ("coordinator.example", "coordinator.example:443"),
        ("[::1]:8700", "[::1]:8700"),
    ],
)
def test_authority_is_normalized(text: str, authority: str) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:b",
        "two words",
        "a,b:443",
        "https://a:443",
        "wss://a/provider/connect",
        "a:443/x",
        "a:443?x",
        "user@a:443",
    ],
)
def test_invalid_authority_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match="expected host:port"):
        parse_authority(text)


def test_default_authorities_are_loopback_and_the_bound_address() -> None:
    loopback = ("127.0.0.1:9", "localhost:9", "[::1]:9")
    assert accepted_authorities(CoordinatorSettings(), 9) == loopback
    assert accepted_authorities(CoordinatorSettings(host="0.0.0.0"), 9) == loopback
    assert accepted_authorities(CoordinatorSettings(host="10.0.0.1"), 9) == (
        *loopback,
        "10.0.0.1:9",
    )


def test_configured_authorities_replace_the_defaults() -> None:
    settings = CoordinatorSettings(authorities=("coordinator.example",))
    assert accepted_authorities(settings, 9) == ("coordinator.example:443",)


def test_repr_of_the_settings_shows_no_secret() -> None:
    assert "secret'" not in repr(CoordinatorSettings(api_keys=SECRETS))
