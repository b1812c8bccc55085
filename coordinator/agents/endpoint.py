"""The HTTP endpoint for agents: checks each WebSocket upgrade and runs its link."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from provider_agent.coordinator.agents.close_reason import CloseReason
from provider_agent.coordinator.agents.connected_agent import RECONNECT_AFTER_MS
from provider_agent.coordinator.agents.dialects import ConnectionFactory
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.link import CLOSE_S, AgentLink
from provider_agent.coordinator.connections.client_address import ProxyNetworks, client_address
from provider_agent.coordinator.connections.guarded_connection import connection_of
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.event_log import EventLogger
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES, SUBPROTOCOL
from provider_agent.websocket.socket_options import WRITE_LIMIT_BYTES, set_socket_options

_SESSION_ID_BYTES: Final = 16


class AgentEndpoint:
    """Accepts WebSocket connections of agents.

    Args:
        settings: the coordinator's settings.
        fleet: admits agents.
        clock: monotonic, in seconds.
        random_bytes: generates nonces; must be cryptographically secure.
        session_id_bytes: generates session ids.

    Attributes:
        authorities: the addresses (`host:port`) that agents may dial on any connection; set when
            the port is bound.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        fleet: Fleet,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        session_id_bytes: Callable[[int], bytes],
    ) -> None:
        self.authorities: tuple[str, ...] = ()
        self._settings = settings
        self._proxies = ProxyNetworks(settings.trusted_proxies)
        self._fleet = fleet
        self._clock = clock
        self._new_connection = ConnectionFactory(settings, random_bytes)
        self._session_id_bytes = session_id_bytes
        self._links: set[AgentLink] = set()
        self._limited_log = LimitedLog(EventLogger(__name__), clock)
        self._close_reason: CloseReason | None = None
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def __repr__(self) -> str:
        return f"<AgentEndpoint authorities={self.authorities} links={len(self._links)}>"

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection, from the upgrade request to its end."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            compress=False,
            timeout=CLOSE_S,
            autoping=False,  # the link receives pings and pongs, and answers pings itself
            max_msg_size=MAX_MESSAGE_TO_COORDINATOR_BYTES + 1,  # aiohttp's limit is exclusive
            # Wait after each message until the write buffer has space: the duration of the wait
            # shows the link's speed, and no message waits behind several others.
            writer_limit=0,
        )
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response()  # not sent, because the connection is lost
        transport, connection = request.transport, connection_of(request)
        if transport is None or connection is None:
            return socket
        connection.begin_handshake()  # the link has its own timeout until `Welcome`
        set_socket_options(transport)
        transport.set_write_buffer_limits(high=WRITE_LIMIT_BYTES)
        if _offers_version_1(request):
            new = self._new_connection.version_1(self._authorities_of(transport))
        else:
            new = self._new_connection.usepod()
        link = AgentLink(
            socket,
            transport=transport,
            protocol=new.protocol,
            session_id=self._session_id_bytes(_SESSION_ID_BYTES),
            registry=self._fleet,
            settings=new.settings,
            clock=self._clock,
            remote=client_address(request, self._proxies) or "an unknown address",
            limited_log=self._limited_log,
            on_welcome=connection.authenticated,
            host=request.headers.get(hdrs.HOST, ""),
            dialect=new.dialect,
        )
        await self._run(link)
        return socket

    def _authorities_of(self, transport: asyncio.Transport) -> tuple[str, ...]:
        """Return the addresses that the agent of a connection may have dialed.

        Without configured ones, they include the address at which the connection arrived. It is
        known from the kernel: a host that relays a challenge has another one.
        """
        if self._settings.authorities:
            return self.authorities
        host, port, *_ = transport.get_extra_info("sockname")
        return (*self.authorities, canonical_authority("ws", host, port))

    async def _run(self, link: AgentLink) -> None:
        self._links.add(link)
        self._all_closed.clear()
        if self._close_reason is not None:  # `close` was called during the upgrade
            link.close(self._close_reason)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            if not self._links:
                self._all_closed.set()

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
            return web.Response(
                status=HTTPStatus.UPGRADE_REQUIRED,
                headers={hdrs.UPGRADE: "websocket"},
                text="Agents connect here with a WebSocket.\n",
            )
        if not (_offers_version_1(request) or self._is_usepod(request)):
            return web.Response(
                status=HTTPStatus.BAD_REQUEST,
                text=f"Offer the WebSocket subprotocol {SUBPROTOCOL}.\n",
            )
        if hdrs.ORIGIN in request.headers:  # sent by browsers: a web page must not act as an agent
            return web.Response(
                status=HTTPStatus.FORBIDDEN, text="Web pages may not connect here.\n"
            )
        if self._close_reason is not None:
            return web.Response(
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                headers={hdrs.RETRY_AFTER: str(RECONNECT_AFTER_MS // 1000)},
                text="The coordinator is stopping.\n",
            )
        return None

    def _is_usepod(self, request: web.Request) -> bool:
        has_subprotocol = hdrs.SEC_WEBSOCKET_PROTOCOL in request.headers
        return ExtraDialect.USEPOD in self._settings.dialects and not has_subprotocol

    async def close(self, close_reason: CloseReason) -> None:
        """Close every connection, also those in their handshake, and wait until all have ended.

        Later ones are refused.

        Each connection takes at most `CLOSE_S`. Call `close` before the `AppRunner` shuts down:
        from then on aiohttp ignores incoming data, including the agents' close frames.
        """
        self._close_reason = close_reason
        for link in list(self._links):
            link.close(close_reason)
        await self._all_closed.wait()


def _offers_version_1(request: web.Request) -> bool:
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
    return SUBPROTOCOL in (name.strip() for name in offered.split(","))
