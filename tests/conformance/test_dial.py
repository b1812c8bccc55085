from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from provider_agent.conformance.coordinator_under_test import (
    CoordinatorTarget,
    CoordinatorUnderTest,
)
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL
from tests.kit.certificates import CertificateAuthority, server_context


async def test_another_host_header_is_sent_over_the_target_s_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = CertificateAuthority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    hosts: list[str] = []

    async def note_host(socket: ServerConnection) -> None:
        assert socket.request is not None
        hosts.append(socket.request.headers["Host"])

    context = server_context(authority.issue("localhost"))
    async with serve(
        note_host, "127.0.0.1", 0, ssl=context, subprotocols=[Subprotocol(SUBPROTOCOL)]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        target = CoordinatorTarget(f"wss://localhost:{port}{CONNECT_PATH}")
        async with CoordinatorUnderTest(target) as coordinator:
            await coordinator.dial(url=f"wss://other.invalid:80{CONNECT_PATH}", to_target=True)
    assert hosts == ["other.invalid:80"]
