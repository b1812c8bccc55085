"""`GET /status`: what the coordinator, its agents and its cluster do now, as JSON for operators."""

import asyncio
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from provider_agent.coordinator.agents.snapshots import AgentSnapshot, PeerSnapshot
from provider_agent.coordinator.http.responses import json_response

if TYPE_CHECKING:
    from provider_agent.coordinator.http.api import HttpApi
    from provider_agent.coordinator.server import Coordinator

PATH: Final = "/status"

MAX_AGENTS: Final = 1000
"""The most agents in the list: more would be no use to a reader, and megabytes of JSON."""

MAX_MODELS: Final = 100
"""The most models of an agent in the list."""


class RequestStatus(Struct, frozen=True):
    """The requests of clients: `running` includes those that are `queued` for an agent."""

    running: int
    queued: int


class AgentStatus(Struct, frozen=True):
    """One agent that is connected here; `omitted_models` are missing in `models`."""

    public_key: str
    models: list[str]
    omitted_models: int
    capacity: int
    in_flight: int
    draining: bool
    heartbeat_age_s: float | None
    dialect: str


class ClusterStatus(Struct, frozen=True):
    """The cluster: the id of this coordinator, and all others.

    Attributes:
        id: this coordinator, in the logs of the others.
        prefix: the first part of all NATS subjects.
        connected: whether the others can be reached.
        server: the NATS server, without user and password; None while there is no connection.
        coordinators: the others.
    """

    id: str
    prefix: str
    connected: bool
    server: str | None
    coordinators: list[PeerSnapshot]


class Status(Struct, frozen=True):
    """The whole answer.

    Attributes:
        version: the installed version.
        name: the name of the machine.
        uptime_s: seconds since the start.
        not_ready: why requests cannot be served now; None if they can.
        address: where the coordinator listens.
        authorities: the addresses that agents may dial.
        requests: the requests of clients.
        agents: agents that are connected here, sorted by public key.
        omitted_agents: how many are missing in `agents`.
        detached_sessions: sessions of lost links that can be resumed.
        cluster: None without `--cluster`.
    """

    version: str
    name: str
    uptime_s: float
    not_ready: str | None
    address: str
    authorities: tuple[str, ...]
    requests: RequestStatus
    agents: list[AgentStatus]
    omitted_agents: int
    detached_sessions: int
    cluster: ClusterStatus | None


class StatusPage:
    """The route, for the same requests as the metrics.

    Args:
        coordinator: the coordinator, which has started to listen.
        http_api: decides about access.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, coordinator: "Coordinator", http_api: "HttpApi", clock: Callable[[], float]
    ) -> None:
        self._coordinator = coordinator
        self._http_api = http_api
        self._clock = clock
        self._started_at = clock()

    def __repr__(self) -> str:
        return f"<StatusPage {self._coordinator!r}>"

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the route."""
        router.add_get(PATH, self._show)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        if (denied := self._http_api.deny_in_openai_format(request)) is not None:
            return denied
        body = msgspec.json.encode(await self.status())
        return json_response(msgspec.json.format(body, indent=2) + b"\n")  # for terminals

    async def status(self) -> Status:
        """Return the current state."""
        coordinator, http_api = self._coordinator, self._http_api
        cluster = await self._cluster()
        agents = coordinator.agents()
        return Status(
            version=_version(),
            name=socket.gethostname(),
            uptime_s=round(self._clock() - self._started_at, 1),
            not_ready=http_api.why_not_ready() or None,
            address=coordinator.authority,
            authorities=coordinator.authorities,
            requests=RequestStatus(http_api.running, coordinator.queued),
            agents=[_agent(agent) for agent in agents[:MAX_AGENTS]],
            omitted_agents=max(0, len(agents) - MAX_AGENTS),
            detached_sessions=len(coordinator.detached_sessions()),
            cluster=cluster,
        )

    async def _cluster(self) -> ClusterStatus | None:
        coordinator = self._coordinator
        settings, member = coordinator.settings.cluster, coordinator.cluster
        if settings is None or member is None:
            return None
        coordinators = []
        for peer in member.coordinators():
            coordinators.append(peer)
            await asyncio.sleep(0)  # one with 16,384 agents takes milliseconds
        return ClusterStatus(
            id=member.own_id.hex(),
            prefix=settings.prefix,
            connected=member.is_connected,
            server=coordinator.nats_server or None,
            coordinators=coordinators,
        )


def _agent(agent: AgentSnapshot) -> AgentStatus:
    age_s = agent.heartbeat_age_s
    return AgentStatus(
        public_key=agent.public_key,
        models=sorted(agent.models)[:MAX_MODELS],
        omitted_models=max(0, len(agent.models) - MAX_MODELS),
        capacity=agent.capacity,
        in_flight=agent.in_flight,
        draining=agent.draining,
        heartbeat_age_s=None if age_s is None else round(age_s, 1),
        dialect=agent.dialect,
    )


def _version() -> str:
    try:
        return version("provider-agent")
    except PackageNotFoundError:
        return "0+unknown"
