"""A client of the running agent's status server."""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.config.schema import DEFAULT_STATUS_ADDRESS
from provider_agent.agent.identity.key import IdentityError, load
from provider_agent.agent.telemetry.status import FINGERPRINT_HEADER, StatusSnapshot

_CONNECT_S: Final = 3.0
"""The longest time until the agent's machine accepts the connection, which takes milliseconds."""

_TIMEOUT_S: Final = 10.0
"""The longest time until the response is complete. A healthy agent responds in milliseconds, but
imports its server for the first request, which takes seconds on a busy machine."""

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
        note: for the operator, if this is another agent than the configuration's; "" otherwise.
    """

    address: str
    status: int
    body: bytes
    fingerprint: str | None = None
    note: str = ""

    @property
    def agent(self) -> str:
        """The agent, for messages."""
        return f"{self.fingerprint} on {self.address}"


class WantedAgent(msgspec.Struct, frozen=True):
    """Which agent a command means, at an address with several ports.

    Attributes:
        fingerprint: that of the configured key; None: any agent.
        key_path: the file of that key, for messages.
        only: whether no agent with another key is used if there is none with this one.
    """

    fingerprint: str | None = None
    key_path: Path = Path()
    only: bool = False

    @classmethod
    def of(cls, loaded: LoadedConfig) -> "WantedAgent":
        """Return the agent that a configuration means.

        If the environment names the key, as in a container, no other agent is used: the health
        check of one agent must not succeed because another one is healthy. Otherwise the key may
        be the operator's own, while the agent is a service, which has another key.
        """
        address = loaded.config.observability.prometheus_addr
        path = loaded.config.identity.key_path
        if not address or len(listen_address(address)[1]) == 1:
            return cls(key_path=path)
        only = loaded.origins["identity.key_path"].startswith("environment")
        try:
            return cls(load(path).fingerprint, path, only)
        except IdentityError:
            return cls(key_path=path)


ANY_AGENT: Final = WantedAgent()


class AgentState(msgspec.Struct, frozen=True):
    """The state of a running agent.

    Attributes:
        snapshot: the state.
        note: as in `AgentPage`.
    """

    snapshot: StatusSnapshot
    note: str = ""


async def fetch_status_page(
    prometheus_addr: str, path: str, wanted: WantedAgent = ANY_AGENT
) -> AgentPage:
    """Fetch a page of the running agent's status server.

    At an address with several ports, all are asked. Two agents with the same key run while one
    replaces the other; the page is then that of the one that succeeds.

    Args:
        prometheus_addr: the address that the agent listens on; a wildcard means loopback.
        path: "/livez", "/readyz" or "/status".
        wanted: which of several agents is meant. If it does not respond and exactly one other
            does, the page is that of the other one, with a note.

    Raises:
        NoAgent: the status server is off or does not respond, another program responds, or only
            agents respond that are not meant.
    """
    return choose(await fetch_pages(prometheus_addr, path), wanted)[0]


async def fetch_state(prometheus_addr: str, wanted: WantedAgent = ANY_AGENT) -> AgentState:
    """Fetch the state of the running agent; of two with the same key, that of the one that stays.

    Args:
        prometheus_addr: as for `fetch_status_page`.
        wanted: as for `fetch_status_page`.

    Raises:
        NoAgent: as `fetch_status_page`.
    """
    pages = choose(await fetch_pages(prometheus_addr, "/status"), wanted)
    states = [AgentState(decode(page), page.note) for page in pages]
    return min(states, key=lambda state: state.snapshot.draining)


def choose(pages: list[AgentPage], wanted: WantedAgent) -> list[AgentPage]:
    """Return the pages of the agent that is meant: several while it is being replaced.

    Args:
        pages: those of all agents, at least one; of one port, only that of the agent there.
        wanted: the agent that is meant.

    Raises:
        NoAgent: none of them is meant, or several could be.
    """
    if wanted.fingerprint is None:
        note = ""
    elif own := [page for page in pages if page.fingerprint == wanted.fingerprint]:
        return own
    else:
        note = f"no agent runs with the key {wanted.key_path} ({wanted.fingerprint})"
    agents = ", ".join(sorted(page.agent for page in pages))
    if wanted.only:
        raise NoAgent(
            f"no agent runs with the key {wanted.key_path} ({wanted.fingerprint}) that the "
            f"environment names; other agents: {agents}; is `provider-agent run` running with it?"
        )
    if len({page.fingerprint for page in pages}) > 1:
        raise NoAgent(
            f"several agents respond: {agents}; choose one by its address, for example "
            f"PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR={pages[0].address}"
        )
    if not note:
        return pages
    note = f"{note}; this is the agent {agents}"
    return [msgspec.structs.replace(page, note=note) for page in pages]


def dialed_host(host: str) -> str:
    """Return the host at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def decode(page: AgentPage) -> StatusSnapshot:
    """Return the state in the page "/status".

    Raises:
        NoAgent: it is the page of another program.
    """
    try:
        return msgspec.json.decode(page.body, type=StatusSnapshot)
    except ValueError as error:
        raise not_an_agent(page.address) from error


async def fetch_pages(prometheus_addr: str, path: str) -> list[AgentPage]:
    """Return the pages of all agents that respond, at least one; those with status 200 first.

    Args:
        prometheus_addr: as for `fetch_status_page`.
        path: as for `fetch_status_page`.

    Raises:
        NoAgent: the status server is off or does not respond, or another program responds.
    """
    if not prometheus_addr:
        raise NoAgent(
            "the status server is off; set [observability] prometheus_addr, for example to "
            f'"{DEFAULT_STATUS_ADDRESS}"'
        )
    host, ports = listen_address(prometheus_addr)
    host = dialed_host(host)
    host = f"[{host}]" if ":" in host else host
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=_CONNECT_S)
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
    if not pages:
        raise _no_agent(prometheus_addr)
    return sorted(pages, key=lambda page: page.status)


async def _fetch(session: aiohttp.ClientSession, address: str, path: str) -> AgentPage:
    try:
        url = f"http://{address}{path}"
        async with session.get(url, allow_redirects=False) as response:
            body = await read_page(response, address)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _no_agent(address) from error
    if response.status not in _AGENT_STATUSES:
        raise not_an_agent(address)
    return AgentPage(address, response.status, body, response.headers.get(FINGERPRINT_HEADER))


async def read_page(response: aiohttp.ClientResponse, address: str) -> bytes:
    """Return the body of a response from `address`.

    Raises:
        NoAgent: it is too long for one of an agent.
    """
    body = b""
    async for data in response.content.iter_any():
        body += data
        if len(body) > _MAX_BYTES:
            raise not_an_agent(address)
    return body


def _no_agent(address: str) -> NoAgent:
    return NoAgent(f"no agent responds on {address}; is `provider-agent run` running?")


def not_an_agent(address: str) -> NoAgent:
    """Return the error for a response of another program."""
    return NoAgent(
        f"another program responds on {address}; set [observability] prometheus_addr to an unused "
        "address"
    )
