import asyncio

import aiohttp
import msgspec
import pytest

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL
from tests.kit.proxied_connection import reset_on_close
from tests.kit.scripted_agent import ScriptedAgent

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 426),
        (UPGRADE, 400),
        ({**UPGRADE, "Sec-WebSocket-Protocol": "chat, provider-agent.v2"}, 400),
        ({**UPGRADE, "Sec-WebSocket-Protocol": SUBPROTOCOL, "Origin": "http://a.example"}, 403),
    ],
    ids=["no upgrade", "no subprotocol", "other subprotocols", "sent by a web page"],
)
async def test_invalid_upgrade_is_refused(
    http: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    async with http.get(CONNECT_PATH, headers=headers) as response:
        assert response.status == status


async def test_subprotocol_is_negotiated_without_compression(coordinator: Coordinator) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            coordinator.connect_url, protocols=("other", SUBPROTOCOL), compress=15
        ) as socket,
    ):
        assert socket.protocol == SUBPROTOCOL
        assert socket.compress == 0


async def test_reset_during_the_upgrade_logs_no_error(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: a connection lost during the upgrade was logged as an unhandled error.
    head = {**UPGRADE, "Host": coordinator.authority, "Sec-WebSocket-Protocol": SUBPROTOCOL}
    lines = [f"GET {CONNECT_PATH} HTTP/1.1", *(f"{name}: {text}" for name, text in head.items())]
    upgrade = "\r\n".join([*lines, "", ""]).encode()
    host, _, port = coordinator.authority.rpartition(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        reset_on_close(writer.get_extra_info("socket"))
        writer.write(upgrade)
        writer.transport.abort()
    async with ScriptedAgent(
        coordinator.connect_url
    ) as agent:  # served after the aborted connections
        assert agent.rejected is None
    assert not [record for record in caplog.records if record.exc_info]


async def test_agents_are_admitted_by_code_or_by_key(settings: CoordinatorSettings) -> None:
    with_code = msgspec.structs.replace(settings, enrollment_codes=SecretSet(["code"]))
    async with (
        Coordinator(with_code) as coordinator,
        ScriptedAgent(coordinator.connect_url) as unknown,
        ScriptedAgent(coordinator.connect_url, enrollment_code="code") as enrolled,
    ):
        assert unknown.rejected is not None
        assert unknown.rejected.code == "not_enrolled"
        assert enrolled.rejected is None
    with_key = msgspec.structs.replace(settings, agent_keys=frozenset([enrolled.public_key]))
    async with (
        Coordinator(with_key) as coordinator,
        ScriptedAgent(coordinator.connect_url, key=enrolled.key) as enrolled,
    ):
        assert enrolled.rejected is None


async def test_only_a_configured_authority_is_accepted(
    settings: CoordinatorSettings,
) -> None:
    named = msgspec.structs.replace(settings, authorities=("coordinator.example:443",))
    async with (
        Coordinator(named) as coordinator,
        ScriptedAgent(coordinator.connect_url, authority="coordinator.example:443") as accepted,
        ScriptedAgent(coordinator.connect_url) as refused,
    ):
        assert accepted.rejected is None
        assert refused.rejected is not None
