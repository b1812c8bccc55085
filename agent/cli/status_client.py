"""A client of the running agent's status server, for `status`, `health` and `check`."""

from typing import Final

import aiohttp
import msgspec

from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.telemetry.status import StatusSnapshot

_TIMEOUT_S: Final = 3.0
"""A healthy agent responds in milliseconds; container health checks allow a few seconds."""

_MAX_BYTES: Final = 4 * 1024 * 1024
"""More than the status of an agent with thousands of models; a longer page is another program's."""

_AGENT_STATUSES: Final = frozenset({200, 503})
"""The statuses of an agent's pages. Any other comes from another program on this address, probably
Prometheus, whose default port is 9090 as well."""


class NoAgent(Exception):
    """No agent responds at the address; the text explains why."""


class AgentPage(msgspec.Struct, frozen=True):
    """One page of the status server.

    Attributes:
        address: `host:port` of the status server.
        status: HTTP status: 200, or 503 from an agent that is not ready.
        body: the page.
    """

    address: str
    status: int
    body: bytes


async def fetch_status_page(prometheus_addr: str, path: str) -> AgentPage:
    """Fetch a page of the running agent's status server.

    Args:
        prometheus_addr: the address that the agent listens on; a wildcard means loopback.
        path: "/livez", "/readyz" or "/status".

    Raises:
        NoAgent: the status server is off or does not respond, or another program responds.
    """
    if not prometheus_addr:
        raise NoAgent(
            "the status server is off; set [observability] prometheus_addr, for example to "
            '"127.0.0.1:9090"'
        )
    host, port = listen_address(prometheus_addr)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}{path}", allow_redirects=False) as response,
        ):
            body = b""
            async for data in response.content.iter_any():
                body += data
                if len(body) > _MAX_BYTES:
                    raise not_an_agent(address)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAgent(
            f"no agent responds on {address}; is `provider-agent run` running?"
        ) from error
    if response.status not in _AGENT_STATUSES:
        raise not_an_agent(address)
    return AgentPage(address, response.status, body)


async def fetch_snapshot(prometheus_addr: str) -> StatusSnapshot:
    """Fetch the state of the running agent.

    Raises:
        NoAgent: as `fetch_status_page`.
    """
    page = await fetch_status_page(prometheus_addr, "/status")
    try:
        return msgspec.json.decode(page.body, type=StatusSnapshot)
    except ValueError as error:
        raise not_an_agent(page.address) from error


def not_an_agent(address: str) -> NoAgent:
    """Return the error for a response of another program."""
    return NoAgent(
        f"another program responds on {address}; set [observability] prometheus_addr to an unused "
        "address"
    )
