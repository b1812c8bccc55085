"""The demo uses only local servers that it can send a chat request to."""

from urllib.parse import urlsplit

from provider_agent.agent.backends.local_servers import FoundServer
from provider_agent.agent.cli.demo.chain import usable_servers
from tests.kit.llamacpp import LlamaCppFactory


async def test_demo_reports_a_local_server_that_requires_a_key(
    llamacpp_factory: LlamaCppFactory,
) -> None:
    locked = await llamacpp_factory(api_key="sk-unknown-to-the-demo")
    unlocked = await llamacpp_factory()
    ports = [urlsplit(server.url).port or 0 for server in (locked, unlocked)]

    usable, reasons = await usable_servers(ports)

    assert usable == [FoundServer("llamacpp", unlocked.url)]
    (reason,) = reasons
    assert reason.startswith(f"(llamacpp at {locked.url} is not used: the server requires a key")
