"""The limits of a link's send buffers, and the TCP options of its socket."""

import asyncio
import contextlib
import socket
import sys
from typing import Final

from provider_agent.protocol.limits import KIB

WRITE_LIMIT_BYTES: Final = 16 * KIB
"""Bytes that may wait in the transport's write buffer while the kernel's socket buffer is full. A
larger buffer delays control frames and small jobs: with 64 KiB, the response of a small job that
ran beside a large one arrived 1.3 s later on a link of 100 kB/s."""

NOTSENT_LOWAT_BYTES: Final = 16 * KIB
"""How many unsent bytes the kernel buffers. Control frames cannot overtake that buffer: on a
saturated link of 20 Mbit/s, a ping took 2.1 s with the default of Linux, and 0.17 s with this
limit. A smaller one would reduce the throughput of a fast link."""

TCP_NOTSENT_LOWAT: Final[int | None] = getattr(
    socket, "TCP_NOTSENT_LOWAT", {"linux": 25, "darwin": 0x201}.get(sys.platform)
)
"""The number of the option (tcp.h of Linux and macOS); None: the system does not have it."""


def set_socket_options(transport: asyncio.BaseTransport) -> None:
    """Disable Nagle's algorithm and limit the kernel's send queue; failures are ignored."""
    # asyncio and uvloop return a proxy of the socket, which forwards `setsockopt`.
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if TCP_NOTSENT_LOWAT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
