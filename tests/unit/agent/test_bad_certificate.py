import asyncio
import datetime
import logging
from pathlib import Path

import pytest

from provider_agent.agent.config import CoordinatorConfig
from tests.kit.agent_config import agent_config
from tests.kit.certificates import CertificateAuthority, server_context
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator

NOT_CONNECTED = "not connected"


class FailedAttemptFilter(logging.Filter):
    """Sets `logged` when a failed attempt to connect is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.logged = asyncio.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage() == NOT_CONNECTED:
            self.logged.set()
        return True


async def test_agent_connects_when_an_expired_certificate_is_renewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, an expired certificate of the coordinator stopped every agent
    # permanently.
    authority = CertificateAuthority(tmp_path)
    yesterday = datetime.timedelta(days=-1)
    coordinator = ScriptedCoordinator()
    coordinator.tls = server_context(authority.issue("127.0.0.1", valid_for=yesterday))
    async with coordinator:
        settings = CoordinatorConfig(url=coordinator.url, ca_file=authority.file)
        config = agent_config("", coordinator=settings)
        agent = RunningAgent(coordinator, ScriptedBackend(), config=config, jitter=0.02)
        failed = FailedAttemptFilter()
        async with agent:
            with caplog.filtering(failed):
                await failed.logged.wait()
            coordinator.tls.load_cert_chain(authority.issue("127.0.0.1"))
            await agent.connected()
    refused = [one for one in caplog.records if one.message == NOT_CONNECTED]
    assert {one.levelname for one in refused} == {"ERROR"}
    fields = vars(refused[0])["fields"]
    assert "certificate has expired" in fields["reason"]
    assert "clock" in fields["what_to_do"]
