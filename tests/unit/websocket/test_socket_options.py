import asyncio
import socket

from provider_agent.agent.link.dial import DialSettings, dial
from provider_agent.protocol.limits import SUBPROTOCOL
from provider_agent.websocket.socket_options import (
    NOTSENT_LOWAT_BYTES,
    TCP_NOTSENT_LOWAT,
    set_socket_options,
)
from tests.kit.loops import on_both_loops
from tests.kit.scripted_coordinator import ScriptedCoordinator


@on_both_loops
async def test_dialed_connection_has_a_small_send_queue() -> None:
    async with ScriptedCoordinator() as coordinator:
        connection = await dial(DialSettings(url=coordinator.url), SUBPROTOCOL)
        dialed: socket.socket = connection.transport.get_extra_info("socket")
        assert dialed.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        if TCP_NOTSENT_LOWAT is not None:
            limit = dialed.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT)
            assert limit == NOTSENT_LOWAT_BYTES
        await connection.close()


async def test_transport_without_a_tcp_socket_is_ignored() -> None:
    set_socket_options(asyncio.Transport())
    here, there = socket.socketpair()
    set_socket_options(asyncio.Transport({"socket": here}))
    here.close()
    there.close()
