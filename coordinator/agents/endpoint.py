"""Where agents knock: the WebSocket upgrade and what is refused before it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import WSCloseCode, hdrs, web

from provider_agent.coordinator.agents.close_reason import CloseReason
from provider_agent.coordinator.agents.fleet import FULL_RETRY_MS, Fleet
from provider_agent.coordinator.agents.link import CLOSE_S, AgentLink
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES, SUBPROTOCOL
from provider_agent.protocol.session import CoordinatorSession

MAX_HANDSHAKES: Final = 64
"""Connections beyond the seats for agents: in their handshake, or about to be turned away."""

_NONCE_BYTES: Final = 32
_SESSION_ID_BYTES: Final = 16


class AgentEndpoint:
    """Accepts agents' connections.

    Args:
        settings: the coordinator's.
        fleet: who admits agents.
        clock: seconds, monotonic.
        random_bytes: makes nonces and session ids; must be cryptographically strong.

    Attributes:
        authorities: by which addresses agents may dial; set once the port is bound.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        fleet: Fleet,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.authorities: tuple[str, ...] = ()
        self._settings = settings
        self._fleet = fleet
        self._clock = clock
        self._random_bytes = random_bytes
        self._links: set[AgentLink] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"<AgentEndpoint authorities={self.authorities} links={len(self._links)}>"

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Serve one agent from its upgrade to the end of its connection."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            compress=False,
            timeout=CLOSE_S,
            max_msg_size=MAX_MESSAGE_TO_COORDINATOR_BYTES + 1,  # aiohttp refuses the bound itself
        )
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response()  # to nobody: the dialler has hung up already
        link = AgentLink(
            socket,
            abort=lambda: _abort(request),
            session=CoordinatorSession(
                nonce=self._random_bytes(_NONCE_BYTES),
                name=self._settings.name,
                authorities=self.authorities,
            ),
            session_id=self._random_bytes(_SESSION_ID_BYTES),
            registry=self._fleet,
            settings=self._settings,
            clock=self._clock,
        )
        self._links.add(link)
        self._empty.clear()
        try:
            await link.run()
        finally:
            self._links.discard(link)
            if not self._links:
                self._empty.set()
        return socket

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
            return web.Response(
                status=HTTPStatus.UPGRADE_REQUIRED,
                headers={hdrs.UPGRADE: "websocket"},
                text="Agents connect here by WebSocket.\n",
            )
        offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
        if SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
            return web.Response(
                status=HTTPStatus.BAD_REQUEST,
                text=f"Offer the WebSocket subprotocol {SUBPROTOCOL}.\n",
            )
        if hdrs.ORIGIN in request.headers:  # a web page must not pose as an agent of this machine
            return web.Response(
                status=HTTPStatus.FORBIDDEN, text="Web pages may not connect here.\n"
            )
        if len(self._links) >= self._settings.max_agents + MAX_HANDSHAKES:
            return web.Response(
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                headers={hdrs.RETRY_AFTER: str(FULL_RETRY_MS // 1000)},
                text="Too many connections.\n",
            )
        return None

    async def close(self, reason: str) -> None:
        """End every connection, those in their handshake included, and wait until they are gone.

        Each takes at most `CLOSE_S`. It has to be over before aiohttp shuts down: from then on it
        ignores what agents send, their part of the closing handshake included.
        """
        for link in list(self._links):
            link.close(CloseReason(WSCloseCode.GOING_AWAY, reason))
        await self._empty.wait()


def _abort(request: web.Request) -> None:
    """Drop the connection without a closing handshake."""
    if request.transport is not None:
        request.transport.abort()
