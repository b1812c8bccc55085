"""How a coordinator stops without interrupting what runs: its drain, alone or in a cluster."""

import asyncio
from typing import TYPE_CHECKING, Final

from provider_agent.coordinator.agents.close_reason import HANDED_OVER, STOPPING, CloseReason
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.http.api import HttpApi

if TYPE_CHECKING:
    from provider_agent.coordinator.cluster.bus import ClusterBus

LOAD_BALANCER_S: Final = 5.0
"""Seconds for which a coordinator of a cluster that stops still accepts requests, half of its drain
at most: a load balancer needs them to notice that it is not ready."""

HAND_OVER_INTERVAL_S: Final = 2.0
"""The interval at which a coordinator of a cluster that stops closes the connections of agents."""

_REASON: Final = "the coordinator is stopping"


class Drain:
    """Waits for the requests of clients; in a cluster, moves the agents to other coordinators.

    Args:
        fleet: the agents.
        http_api: the requests of clients.
        cluster: the connection to the other coordinators; None for a single coordinator.
        limit_s: the longest time that the drain takes.
    """

    def __init__(
        self, fleet: Fleet, http_api: HttpApi, cluster: "ClusterBus | None", limit_s: float
    ) -> None:
        self._fleet = fleet
        self._http_api = http_api
        self._cluster = cluster
        self._limit_s = limit_s
        self._hands_over = cluster is not None and cluster.member.can_hand_over

    def __repr__(self) -> str:
        return f"<Drain limit_s={self._limit_s} hands_over={self._hands_over}>"

    @property
    def close_reason(self) -> CloseReason:
        """Why the connections of agents are closed after the drain."""
        return HANDED_OVER if self._hands_over else STOPPING

    async def run(self) -> None:
        """Return when everything has finished, or after `limit_s`."""
        self._http_api.announce_stop()
        self._fleet.start_draining(_REASON, handing_over=self._hands_over)
        if self._hands_over:
            await self._hand_over()
        else:
            await self._wait(self._limit_s)

    def end(self) -> None:
        """End what still runs here, except the jobs that other coordinators can continue."""
        if self._cluster is not None:
            self._cluster.member.edge.end_all()
            if self._hands_over:
                self._cluster.member.holder.release_all()
        self._fleet.close()

    async def _wait(self, timeout_s: float) -> None:
        """Wait for the requests of clients, and for the jobs of other coordinators."""
        if self._cluster is None:
            await self._http_api.stop(timeout_s)
        else:
            await asyncio.gather(
                self._http_api.stop(timeout_s), self._cluster.wait_until_idle(timeout_s)
            )

    async def _hand_over(self) -> None:
        """Move the agents; finish the requests of the clients here.

        For the first seconds, new requests are accepted, and sent to the agents of the others.
        """
        moving = asyncio.create_task(self._move_agents(), name="hand over")
        try:
            accept_s = min(LOAD_BALANCER_S, self._limit_s / 2)
            await asyncio.sleep(accept_s)
            await self._wait(self._limit_s - accept_s)
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)

    async def _move_agents(self) -> None:
        """Make agents reconnect, again and again those that a load balancer sends back here."""
        while True:
            self._fleet.hand_over()
            await asyncio.sleep(HAND_OVER_INTERVAL_S)
