"""What the link asks of the kernel for its TCP connection."""

import asyncio
import contextlib
import socket
import sys
from typing import Final

from provider_agent.protocol.limits import KIB

NOTSENT_LOWAT_BYTES: Final = 16 * KIB
"""How much the kernel may hold that it has not sent yet. Its buffer is the one queue that control
frames cannot overtake: on a saturated link of 20 Mbit/s a ping took 2.1 s behind the buffers of
Linux, and 0.17 s with this limit. Smaller would cost a fast link throughput."""

TCP_NOTSENT_LOWAT: Final[int | None] = getattr(
    socket, "TCP_NOTSENT_LOWAT", {"linux": 25, "darwin": 0x201}.get(sys.platform)
)
"""The option's number (tcp.h of Linux and of macOS); other systems have nothing like it."""


def set_socket_options(transport: asyncio.BaseTransport) -> None:
    """Send at once, and queue little in the kernel. Best effort: a link works without it."""
    # Neither loop gives the real socket, but both forward its options.
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if TCP_NOTSENT_LOWAT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
