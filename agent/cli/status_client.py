"""A client of the running agent's status server, for `status`, `health` and `check`."""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.config.schema import DEFAULT_STATUS_ADDRESS
from provider_agent.agent.identity.key import IdentityError, load
from provider_agent.agent.telemetry.status import FINGERPRINT_HEADER, StatusSnapshot

_TIMEOUT_S: Final = 3.0
"""A healthy agent responds in milliseconds; container health checks allow a few seconds."""

_MAX_BYTES: Final = 4 * 1024 * 1024
"""More than the status of an agent with thousands of models; a longer page is another program's."""

_AGENT_STATUSES: Final = frozenset({200, 503})
"""The statuses of an agent's pages. Any other comes from another program on this address."""


class NoAgent(Exception):
    """No agent responds at the address; the text explains why."""


class AgentPage(msgspec.Struct, frozen=True):
    """One page of the status server.

    Attributes:
        address: `host:port` of the status server.
        status: HTTP status: 200, or 503 from an agent that is not ready.
        body: the page.
        fingerprint: that of the agent's key; None from another program, or an older agent.
    """

    address: str
    status: int
    body: bytes
    fingerprint: str | None = None


def fingerprint_of(prometheus_addr: str, key_path: Path) -> str | None:
    """Return the fingerprint of the key if it is needed to find the agent at one of several ports.

    None if the address has one port, or this user cannot read the key: then any agent is accepted.
    """
    if not prometheus_addr or len(listen_address(prometheus_addr)[1]) == 1:
        return None
    try:
        return load(key_path).fingerprint
    except IdentityError:
        return None


async def fetch_status_page(
    prometheus_addr: str, path: str, fingerprint: str | None = None
) -> AgentPage:
    """Fetch a page of the running agent's status server.

    At an address with several ports, all are asked. Two agents with the same key run while one
    replaces the other; the page is then that of the one that succeeds.

    Args:
        prometheus_addr: the address that the agent listens on; a wildcard means loopback.
        path: "/livez", "/readyz" or "/status".
        fingerprint: that of the agent's key, which decides between agents at several ports; None
            accepts any agent.

    Raises:
        NoAgent: the status server is off or does not respond, or another program responds.
    """
    return (await _fetch_pages(prometheus_addr, path, fingerprint))[0]


async def fetch_snapshot(prometheus_addr: str, fingerprint: str | None = None) -> StatusSnapshot:
    """Fetch the state of the running agent; of two with the same key, that of the one that stays.

    Args:
        prometheus_addr: as for `fetch_status_page`.
        fingerprint: as for `fetch_status_page`.

    Raises:
        NoAgent: as `fetch_status_page`.
    """
    pages = await _fetch_pages(prometheus_addr, "/status", fingerprint)
    states = [_decode(page) for page in pages]
    return min(states, key=lambda state: state.draining)


async def find_agent(prometheus_addr: str, fingerprint: str) -> str:
    """Return the `host:port` of the running agent with this key; of two, that which stays.

    Raises:
        NoAgent: as `fetch_status_page`, or the agent there has another key.
    """
    pages = await _fetch_pages(prometheus_addr, "/status", fingerprint)
    page = min(pages, key=lambda one: _decode(one).draining)
    if page.fingerprint != fingerprint:
        raise NoAgent(
            f"the agent on {page.address} has another key than this configuration; name its "
            "configuration with --config"
        )
    return page.address


def _decode(page: AgentPage) -> StatusSnapshot:
    try:
        return msgspec.json.decode(page.body, type=StatusSnapshot)
    except ValueError as error:
        raise not_an_agent(page.address) from error


async def _fetch_pages(prometheus_addr: str, path: str, fingerprint: str | None) -> list[AgentPage]:
    """Return the pages of all agents that respond, at least one; those with status 200 first."""
    if not prometheus_addr:
        raise NoAgent(
            "the status server is off; set [observability] prometheus_addr, for example to "
            f'"{DEFAULT_STATUS_ADDRESS}"'
        )
    host, ports = listen_address(prometheus_addr)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        addresses = [f"{host}:{port}" for port in ports]
        results = await asyncio.gather(
            *(_fetch(session, address, path) for address in addresses), return_exceptions=True
        )
    if len(results) == 1:
        if isinstance(results[0], BaseException):
            raise results[0]
        return [results[0]]
    pages = [one for one in results if isinstance(one, AgentPage) and one.fingerprint is not None]
    if fingerprint is not None:
        pages = [page for page in pages if page.fingerprint == fingerprint]
    if not pages:
        raise _no_agent(prometheus_addr)
    return sorted(pages, key=lambda page: page.status)


async def _fetch(session: aiohttp.ClientSession, address: str, path: str) -> AgentPage:
    try:
        url = f"http://{address}{path}"
        async with session.get(url, allow_redirects=False) as response:
            body = b""
            async for data in response.content.iter_any():
                body += data
                if len(body) > _MAX_BYTES:
                    raise not_an_agent(address)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _no_agent(address) from error
    if response.status not in _AGENT_STATUSES:
        raise not_an_agent(address)
    return AgentPage(address, response.status, body, response.headers.get(FINGERPRINT_HEADER))


def _no_agent(address: str) -> NoAgent:
    return NoAgent(f"no agent responds on {address}; is `provider-agent run` running?")


def not_an_agent(address: str) -> NoAgent:
    """Return the error for a response of another program."""
    return NoAgent(
        f"another program responds on {address}; set [observability] prometheus_addr to an unused "
        "address"
    )
