import pytest

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.description import describe
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect

KEYS = SecretSet(["key"])


def addresses(family: int) -> list[str]:
    return ["10.0.0.5"] if family else ["10.0.0.5", "fd00::5"]


async def lines_of(host: str, *authorities: str) -> list[str]:
    settings = CoordinatorSettings(
        host=host, port=0, authorities=authorities, api_keys=KEYS, enrollment_codes=KEYS
    )
    async with Coordinator(settings) as coordinator:
        lines = describe(coordinator, addresses)
        return [line.replace(f":{coordinator.port}", ":PORT") for line in lines]


async def test_description_contains_purpose_addresses_and_access(coordinator: Coordinator) -> None:
    text = "\n".join(describe(coordinator))
    assert coordinator.http_url in text
    assert coordinator.connect_url in text
    assert "no API key required" in text
    assert "every agent is admitted" in text
    assert "for development, tests and self-hosted fleets" in text
    assert "another machine" not in text


async def test_wildcard_prints_the_addresses_of_this_machine_and_the_command_for_agents() -> None:
    lines = await lines_of("0.0.0.0")
    command = "provider-agent init --coordinator-url ws://10.0.0.5:PORT/provider/connect"
    assert lines[1:7] == [
        "  clients  http://127.0.0.1:PORT  (API key required)",
        "           http://10.0.0.5:PORT",
        "  agents   ws://127.0.0.1:PORT/provider/connect  (enrolled agents only)",
        "           ws://10.0.0.5:PORT/provider/connect",
        "  agents may dial 127.0.0.1:PORT, localhost:PORT, [::1]:PORT, 10.0.0.5:PORT",
        f"  on another machine: {command} --allow-insecure",
    ]
    rest = "\n".join(lines[7:])
    assert "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE" in rest
    # It printed `run`, which offers nothing on a machine without a configuration.
    assert "  then: provider-agent check, and provider-agent run\n" in rest
    assert "unencrypted" in rest
    assert "--authority NAME; agents then dial wss://NAME/provider/connect" in rest


async def test_ipv6_wildcard_prints_addresses_of_both_families() -> None:
    lines = await lines_of("::")
    assert "           ws://10.0.0.5:PORT/provider/connect" in lines
    assert "           ws://[fd00::5]:PORT/provider/connect" in lines


@pytest.mark.parametrize(
    ("authority", "url"),
    [
        ("ai.example", "wss://ai.example/provider/connect"),
        ("ai.example:8443", "wss://ai.example:8443/provider/connect"),
        ("ai.example:80", "ws://ai.example/provider/connect"),
    ],
)
async def test_configured_authorities_are_what_agents_dial(authority: str, url: str) -> None:
    lines = await lines_of("0.0.0.0", authority, "10.0.0.7:443")
    assert f"  agents   {url}  (enrolled agents only)" in lines
    assert "           wss://10.0.0.7/provider/connect" in lines
    assert not any("ws://127.0.0.1" in line for line in lines)
    (command,) = [line for line in lines if "another machine" in line]
    assert command.endswith(url + (" --allow-insecure" if url.startswith("ws:") else ""))


@pytest.mark.parametrize(
    "opened", [{"trusted_proxies": ("127.0.0.1",)}, {"authorities": ("ai.example",)}]
)
async def test_open_coordinator_behind_a_proxy_warns(opened: dict[str, tuple[str, ...]]) -> None:
    async with Coordinator(CoordinatorSettings(port=0, **opened)) as coordinator:  # type: ignore[arg-type]
        text = "\n".join(describe(coordinator, addresses))
    assert text.count("WARNING") == 2
    settings = CoordinatorSettings(port=0, api_keys=KEYS, enrollment_codes=KEYS, **opened)  # type: ignore[arg-type]
    async with Coordinator(settings) as coordinator:
        assert "WARNING" not in "\n".join(describe(coordinator, addresses))


@pytest.mark.parametrize(("agent_keys", "warned"), [(None, True), (frozenset({bytes(32)}), False)])
def test_dialects_are_described_and_that_codes_are_sent_only_once(
    agent_keys: frozenset[bytes] | None, warned: bool
) -> None:
    settings = CoordinatorSettings(
        enrollment_codes=KEYS, agent_keys=agent_keys, dialects=frozenset({ExtraDialect.USEPOD})
    )
    text = "\n".join(describe(Coordinator(settings)))
    assert "  dialects provider-agent.v1, usepod" in text
    assert ("--agent-keys FILE admits them" in text) is warned


def test_cluster_is_described_without_passwords() -> None:
    cluster = ClusterSettings(urls=("nats://u:secret@one:1", "tls://secret@[::1]"), prefix="fleet")
    coordinator = Coordinator(CoordinatorSettings(cluster=cluster))
    text = "\n".join(describe(coordinator))
    assert "  cluster  fleet, through nats://one:1, tls://[::1]" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("nats://u:secret@nats.example:4222", True),
        ("nats://10.0.0.5", True),
        ("ws://nats.example", True),
        ("tls://nats.example", False),
        ("wss://nats.example", False),
        ("nats://localhost:4222", False),
        ("nats://u:secret@[::1]:4222", False),
    ],
)
def test_nats_on_another_machine_without_tls_is_warned_of(url: str, warned: bool) -> None:
    coordinator = Coordinator(CoordinatorSettings(cluster=ClusterSettings(urls=(url,))))
    text = "\n".join(describe(coordinator))
    assert ("WARNING: prompts and answers may cross" in text) is warned
    assert "secret" not in text
