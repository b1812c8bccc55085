"""Whether bytes arrive on a connection, also while a message is incomplete."""

import asyncio
import socket
import struct
import sys
from typing import Final

_TCP_INFO_BYTES: Final = 192
"""Large enough for the field below; a kernel with a shorter structure returns fewer bytes."""

_BYTES_RECEIVED: Final = struct.Struct("=128xQ")
"""`tcpi_bytes_received` of `struct tcp_info` (linux/tcp.h, Linux 4.1)."""


class ReceivedBytes:
    """Asks the kernel how many bytes have arrived; only Linux reports it.

    Args:
        transport: the transport of the connection.
    """

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._socket: socket.socket | None = transport.get_extra_info("socket")
        self._received = self._count()

    def increased(self) -> bool:
        """Whether bytes have arrived since the last call; False on other systems than Linux."""
        before, self._received = self._received, self._count()
        return self._received > before

    def _count(self) -> int:
        if sys.platform != "linux" or self._socket is None:
            return 0
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0
        return int(_BYTES_RECEIVED.unpack_from(info)[0]) if len(info) >= _BYTES_RECEIVED.size else 0
