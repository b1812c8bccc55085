"""The demo takes a server that runs here only when it can chat with it."""

from urllib.parse import urlsplit

from provider_agent.agent.backends.local_servers import FoundServer
from provider_agent.agent.cli.demo.chain import usable_servers
from tests.kit.llamacpp import LlamaCppFactory


async def test_a_server_that_needs_a_key_is_left_alone_with_the_reason(
    llamacpp_factory: LlamaCppFactory,
) -> None:
    """The demo once waited half a minute for its models, and then said that it was loading."""
    locked = await llamacpp_factory(api_key="sk-of-somebody")
    open_one = await llamacpp_factory()
    ports = [urlsplit(server.url).port or 0 for server in (locked, open_one)]

    usable, reasons = await usable_servers(ports)

    assert usable == [FoundServer("llamacpp", open_one.url)]
    (reason,) = reasons
    assert reason.startswith(f"(llamacpp at {locked.url} is not used: the server refused the key")
