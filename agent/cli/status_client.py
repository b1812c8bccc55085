"""Asks the running agent's status server; what `status`, `health` and `check` share."""

from typing import Final

import aiohttp
import msgspec

from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.telemetry.status import StatusSnapshot

_TIMEOUT_S: Final = 3.0
"""A healthy agent answers in milliseconds; container health checks have a few seconds."""

_MAX_BYTES: Final = 4 * 1024 * 1024


_AGENT_STATUSES: Final = frozenset({200, 503})
"""What an agent's pages answer; anything else comes from another program on this address, of which
Prometheus itself (port 9090, too) is the likeliest."""


class NoAgent(Exception):
    """No agent answers there; the text says why."""


class AgentPage(msgspec.Struct, frozen=True):
    """One page of the status server.

    Attributes:
        address: who answered, as `host:port`.
        status: of HTTP: 200, or 503 from an agent that is not ready.
        body: the page.
    """

    address: str
    status: int
    body: bytes


async def fetch_status_page(prometheus_addr: str, path: str) -> AgentPage:
    """One page of the running agent's status server.

    Args:
        prometheus_addr: what the agent listens on; for "every address", loopback is asked.
        path: "/livez", "/readyz" or "/status".

    Raises:
        NoAgent: the status server is off or does not answer, or something else does.
    """
    if not prometheus_addr:
        raise NoAgent(
            'the status server is off; set [observability] prometheus_addr to "127.0.0.1:9090", say'
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
            body = await response.content.read(_MAX_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAgent(f"no agent answers on {address}; is `provider-agent run` up?") from error
    if response.status not in _AGENT_STATUSES:
        raise not_an_agent(address)
    return AgentPage(address, response.status, body)


async def fetch_snapshot(prometheus_addr: str) -> StatusSnapshot:
    """The state of the running agent.

    Raises:
        NoAgent: as `fetch_status_page`.
    """
    page = await fetch_status_page(prometheus_addr, "/status")
    try:
        return msgspec.json.decode(page.body, type=StatusSnapshot)
    except ValueError as error:
        raise not_an_agent(page.address) from error


def not_an_agent(address: str) -> NoAgent:
    """The error for an answer that no agent gives."""
    return NoAgent(
        f"what answers on {address} is not an agent; give the agent an address of its own "
        "([observability] prometheus_addr)"
    )
