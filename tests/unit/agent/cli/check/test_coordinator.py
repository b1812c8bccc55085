import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.check.coordinator import check_coordinators
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.config import Config, CoordinatorConfig, IdentityConfig
from provider_agent.agent.identity.key import Identity, load_or_create
from provider_agent.agent.identity.key_lock import hold_key_lock
from provider_agent.agent.link.state import LinkState
from provider_agent.protocol.frames import Hello, Rejected
from tests.kit.agent_config import agent_config
from tests.kit.cli_agent import READY, other_http_server, status_server
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.usepod_coordinator import UsepodCoordinator


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return load_or_create(tmp_path / "identity.key")


@pytest.fixture
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as running:
        yield running


NO_AGENT = "127.0.0.1:1"


async def check_coordinator(config: Config, identity: Identity | str) -> Finding:
    (finding,) = await check_coordinators(config, identity)
    return finding


async def check_without_handshake(config: Config, identity: Identity | str) -> str:
    """Return why the handshake was skipped; the coordinator is reachable."""
    reachable, skipped = await check_coordinators(config, identity)
    assert reachable.outcome is Outcome.OK
    assert reachable.details.startswith("reachable, round trip ")
    assert skipped.outcome is Outcome.SKIPPED
    return skipped.details


def config_for(
    coordinator: ScriptedCoordinator, *others: str, prometheus_addr: str = NO_AGENT
) -> Config:
    section = CoordinatorConfig(
        url=coordinator.url, fallback_urls=others, enrollment_code="code-of-the-test"
    )
    return agent_config("", coordinator=section, prometheus_addr=prometheus_addr)


def rejecting(rejected: Rejected) -> Callable[[Hello], Rejected]:
    return lambda _hello: rejected


async def test_welcome_is_ok_with_round_trip_time(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    finding = await check_coordinator(config_for(coordinator), identity)

    assert finding.outcome is Outcome.OK
    assert finding.target == coordinator.url
    assert finding.details.startswith("welcomed as provider-1, round trip ")


async def test_hello_has_the_agents_key_and_enrollment_code(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    await check_coordinator(config_for(coordinator), identity)

    hello = await coordinator.connections[0].next(Hello)
    assert hello.public_key == identity.public_key
    assert hello.enrollment_code == "code-of-the-test"
    await coordinator.connections[0].closed.wait()


async def test_handshake_is_skipped_without_a_key(coordinator: ScriptedCoordinator) -> None:
    details = await check_without_handshake(config_for(coordinator), "there is no key")

    assert details == "handshake skipped: there is no key"
    assert coordinator.connections[0].frames == []


@pytest.mark.parametrize("link", [LinkState.CONNECTED, LinkState.CONNECTING])
async def test_running_agent_keeps_its_session(
    link: LinkState, coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    """The coordinator admits one agent per key, so `check` skips the handshake.

    A handshake could prevent the running agent from reconnecting.
    """
    state = replace(READY, link=link, coordinator_url=coordinator.url)
    async with status_server(state, fingerprint=identity.fingerprint) as address:
        config = config_for(coordinator, prometheus_addr=address)

        details = await check_without_handshake(config, identity)

    assert details == "handshake skipped: the running agent has a session"
    assert coordinator.connections[0].frames == []


async def test_query_of_the_address_is_not_printed(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    # Regression: an address with a query was also never recognized as that of the running agent.
    shown = f"{coordinator.url}?[set]"
    section = CoordinatorConfig(
        url=f"{coordinator.url}?a-secret", fallback_urls=("ws://[::1]:1/?s",)
    )
    async with status_server(
        replace(READY, coordinator_url=shown), fingerprint=identity.fingerprint
    ) as address:
        config = agent_config("", coordinator=section, prometheus_addr=address)
        reachable, skipped, failed = await check_coordinators(config, identity)
    assert [reachable.target, skipped.target, failed.target] == [
        shown,
        shown,
        "ws://[::1]:1/?[set]",
    ]
    assert "the running agent has a session" in skipped.details


async def test_agent_without_a_status_server_keeps_its_connection(
    coordinator: ScriptedCoordinator, identity: Identity, tmp_path: Path
) -> None:
    config = config_for(coordinator, prometheus_addr="")
    config = replace(config, identity=IdentityConfig(key_path=tmp_path / "identity.key"))
    with hold_key_lock(config.identity.key_path):
        details = await check_without_handshake(config, identity)

    assert details == "handshake skipped: an agent runs with this key"
    assert coordinator.connections[0].frames == []


async def test_every_address_is_checked(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    async with ScriptedCoordinator() as other:
        config = config_for(coordinator, "ws://127.0.0.1:1/", other.url)

        findings = await check_coordinators(config, identity)

    assert [finding.target for finding in findings] == [
        coordinator.url,
        "ws://127.0.0.1:1/",
        other.url,
    ]
    outcomes = [finding.outcome for finding in findings]
    assert outcomes == [Outcome.OK, Outcome.FAILED, Outcome.OK]


async def test_agent_at_a_fallback_address_keeps_its_connection(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    async with ScriptedCoordinator() as other:
        state = replace(READY, coordinator_url=other.url)
        async with status_server(state, fingerprint=identity.fingerprint) as address:
            config = config_for(coordinator, other.url, prometheus_addr=address)

            findings = await check_coordinators(config, identity)

        skipped = [finding for finding in findings if finding.outcome is Outcome.SKIPPED]
        assert [finding.target for finding in skipped] == [coordinator.url, other.url]
        assert coordinator.connections[0].frames == other.connections[0].frames == []


@pytest.mark.parametrize(
    "changes",
    [
        {"link": LinkState.CONNECTING, "last_welcome_age_s": None},
        {"coordinator_url": "wss://other"},
    ],
)
async def test_handshake_is_performed_if_the_running_agent_has_no_session_at_the_configured_address(
    changes: dict[str, object], coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    state = replace(replace(READY, coordinator_url=coordinator.url), **changes)
    async with status_server(state, fingerprint=identity.fingerprint) as address:
        config = config_for(coordinator, prometheus_addr=address)

        finding = await check_coordinator(config, identity)

    assert finding.details.startswith("welcomed as")


async def test_agent_with_another_key_does_not_prevent_the_handshake(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    state = replace(READY, coordinator_url=coordinator.url)
    async with status_server(state, fingerprint="other") as address:
        config = config_for(coordinator, prometheus_addr=address)

        finding = await check_coordinator(config, identity)

    assert finding.details.startswith("welcomed as")


async def test_other_program_on_the_status_address_does_not_prevent_the_handshake(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    async with other_http_server() as address:
        config = config_for(coordinator, prometheus_addr=address)

        finding = await check_coordinator(config, identity)

    assert finding.details.startswith("welcomed as")


@pytest.mark.parametrize(
    ("rejected", "advice"),
    [
        (Rejected("not_enrolled", "unknown key"), "enrollment_code"),
        (Rejected("bad_signature", "invalid signature"), "--authority"),
        (Rejected("busy", "too many agents", 5000), "try again later"),
    ],
)
async def test_rejection_has_reason_and_advice(
    rejected: Rejected, advice: str, coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    coordinator.answer = rejecting(rejected)

    finding = await check_coordinator(config_for(coordinator), identity)

    assert finding.outcome is Outcome.FAILED
    assert finding.details == f"rejected by the coordinator: {rejected.code}: {rejected.message}"
    assert advice in finding.what_to_do


async def test_a_coordinator_of_the_other_dialect_is_welcomed_with_the_dialect_and_its_reason(
    identity: Identity,
) -> None:
    async with UsepodCoordinator() as coordinator:
        section = CoordinatorConfig(url=coordinator.url, dialect="usepod")
        (finding,) = await check_coordinators(agent_config("", coordinator=section), identity)

    assert finding.outcome is Outcome.OK
    assert finding.details.startswith("welcomed as prov_1, ")
    assert finding.details.endswith(", dialect usepod (as configured)")


async def test_the_dialect_is_named_without_a_handshake_too() -> None:
    async with UsepodCoordinator() as coordinator:
        section = CoordinatorConfig(url=coordinator.url, dialect="usepod")
        config = agent_config("", coordinator=section)
        reachable, skipped = await check_coordinators(config, "there is no key")

    assert reachable.details.endswith(", dialect usepod (as configured)")
    assert skipped.outcome is Outcome.SKIPPED


async def test_coordinator_that_selects_no_subprotocol_may_speak_the_other_dialect(
    identity: Identity,
) -> None:
    # The file of the Rust agent names no dialect, so a coordinator of one's own needs the setting.
    async with UsepodCoordinator() as coordinator:
        section = CoordinatorConfig(url=coordinator.url)
        (finding,) = await check_coordinators(agent_config("", coordinator=section), identity)

    assert finding.details == "the server does not support provider-agent.v1"
    assert finding.what_to_do == (
        "check that [coordinator] url is the address of a coordinator, and set "
        'dialect = "usepod" if it is one of a Use Pod marketplace'
    )


async def test_a_refusal_of_the_other_dialect_has_its_reason(identity: Identity) -> None:
    async with UsepodCoordinator() as coordinator:
        coordinator.refusal = "unknown key"
        section = CoordinatorConfig(url=coordinator.url, dialect="usepod")
        (finding,) = await check_coordinators(agent_config("", coordinator=section), identity)

    assert finding.outcome is Outcome.FAILED
    assert "unknown key" in finding.details
    assert "enrollment_code" in finding.what_to_do


async def test_connected_agent_with_the_same_key_is_reported_and_not_a_failure(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    coordinator.answer = rejecting(Rejected("key_in_use", "agent 1.2.3 is connected"))

    finding = await check_coordinator(config_for(coordinator), identity)

    assert finding.outcome is Outcome.OK
    assert finding.details.endswith("key_in_use: agent 1.2.3 is connected")


@pytest.mark.parametrize(
    ("status", "details", "advice"),
    [
        (401, "HTTP status 401", "token_file"),
        (404, "HTTP status 404", "check [coordinator] url"),
        (426, "HTTP status 426", "proxies"),
        (503, "HTTP status 503", "try again"),
    ],
)
async def test_refused_upgrade_has_status_and_advice(
    status: int, details: str, advice: str, coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    coordinator.refusals.append((status, {}))

    finding = await check_coordinator(config_for(coordinator), identity)

    assert finding.outcome is Outcome.FAILED
    assert details in finding.details
    assert advice in finding.what_to_do


async def test_malformed_message_fails_the_handshake(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    coordinator.sends_challenge = False
    checking = asyncio.create_task(check_coordinator(config_for(coordinator), identity))
    await (await coordinator.next_connection()).send_raw(b"SECRET-GARBAGE")

    finding = await checking

    assert_not_a_coordinator(finding, "the handshake failed: not an array of at most")


async def test_closed_connection_fails_the_handshake(
    coordinator: ScriptedCoordinator, identity: Identity
) -> None:
    coordinator.sends_challenge = False
    checking = asyncio.create_task(check_coordinator(config_for(coordinator), identity))
    await (await coordinator.next_connection()).close(1011, "sorry")

    finding = await checking

    assert_not_a_coordinator(finding, "the handshake failed: received 1011 (internal error) sorry")


async def test_silent_server_times_out(
    coordinator: ScriptedCoordinator, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider_agent.agent.cli.check.coordinator.HANDSHAKE_TIMEOUT_S", 0.01)
    coordinator.sends_challenge = False

    finding = await check_coordinator(config_for(coordinator), identity)

    assert_not_a_coordinator(finding, "connected, but received no Welcome")


def assert_not_a_coordinator(finding: Finding, details: str) -> None:
    assert finding.outcome is Outcome.FAILED
    assert finding.details.startswith(details)
    assert finding.what_to_do == "check that [coordinator] url is the address of a coordinator"


async def test_web_server_is_not_a_coordinator(identity: Identity) -> None:
    async with other_http_server(200, "<html>") as address:
        config = agent_config(f"ws://{address}/x")

        finding = await check_coordinator(config, identity)

    assert finding.outcome is Outcome.FAILED
    assert finding.details == "the server answered the upgrade with HTTP status 200"


async def test_tls_on_a_plain_port_is_explained(identity: Identity) -> None:
    async with other_http_server() as address:
        finding = await check_coordinator(agent_config(f"wss://{address}/"), identity)

    assert finding.outcome is Outcome.FAILED
    assert "should the url begin with ws://?" in finding.details


async def test_advice_names_the_configured_proxy(identity: Identity) -> None:
    section = CoordinatorConfig(url="wss://c.invalid/", proxy="http://u:SECRET@127.0.0.1:1")

    finding = await check_coordinator(agent_config("", coordinator=section), identity)

    assert finding.outcome is Outcome.FAILED
    assert finding.details == "the proxy 127.0.0.1:1 cannot be reached (connection refused)"
    assert finding.what_to_do == "check [coordinator] proxy or HTTPS_PROXY"
    assert "SECRET" not in str(finding)


async def test_missing_token_file_is_reported_with_advice(
    coordinator: ScriptedCoordinator, identity: Identity, tmp_path: Path
) -> None:
    section = CoordinatorConfig(url=coordinator.url, token_file=tmp_path / "token")

    finding = await check_coordinator(agent_config("", coordinator=section), identity)

    reason = "it cannot be read: No such file or directory"
    assert finding.details == f"[coordinator] token_file {tmp_path}/token: {reason}"
    assert finding.what_to_do == "correct that file, or the setting that names it"
