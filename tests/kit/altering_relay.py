"""A WebSocket relay between agent and coordinator that alters frames, to imitate faulty peers."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL

Alter = Callable[[list[Any]], list[Any]]
"""Maps the frames of a message to those that are forwarded; an empty list drops the message."""

MAX_BYTES = 2**26
ABNORMAL = 1006


def unchanged(frames: list[Any]) -> list[Any]:
    return frames


class AlteringRelay:
    """The relay; an async context manager. Agents dial `url`.

    Malformed messages are forwarded unaltered. So are messages with a frame of an unknown type,
    unless `refuses_unknown_types` is set.

    Args:
        to_agent: alters the coordinator's frames.
        to_coordinator: alters the agent's frames.
        close_codes: maps a close code that either side sends to the code that is forwarded.
        selects_subprotocol: whether the relay selects the subprotocol that an agent offers.
        refuses_unknown_types: whether to close both connections with 1002 when the agent or the
            coordinator sends a frame of an unknown type.

    Attributes:
        target_url: the coordinator's URL; to be set before an agent dials.
    """

    def __init__(
        self,
        *,
        to_agent: Alter = unchanged,
        to_coordinator: Alter = unchanged,
        close_codes: dict[int, int] | None = None,
        selects_subprotocol: bool = True,
        refuses_unknown_types: bool = False,
    ) -> None:
        self.target_url = ""
        self._to_agent = to_agent
        self._to_coordinator = to_coordinator
        self._close_codes = close_codes or {}
        self._selects = selects_subprotocol
        self._refuses_unknown = refuses_unknown_types
        self._server: Server | None = None
        self.port = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"ws://{self.authority}{CONNECT_PATH}"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            select_subprotocol=lambda _connection, _offered: (
                Subprotocol(SUBPROTOCOL) if self._selects else None
            ),
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=MAX_BYTES,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, agent: ServerConnection) -> None:
        coordinator = await connect(
            self.target_url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=1,
            max_size=MAX_BYTES,
        )
        pumps = [
            self._pump(agent, coordinator, VERSION_1.decode_from_agent, self._to_coordinator),
            self._pump(coordinator, agent, VERSION_1.decode_from_coordinator, self._to_agent),
        ]
        await asyncio.gather(*pumps)

    async def _pump(
        self,
        source: ServerConnection | ClientConnection,
        sink: ServerConnection | ClientConnection,
        decode: Callable[[bytes | str, int], Decoded[Any]],
        alter: Alter,
    ) -> None:
        try:
            async for message in source:
                for altered in self._altered(message, decode, alter):
                    await sink.send(altered)
        except ConnectionClosed:
            pass
        except _UnknownType:
            await asyncio.gather(source.close(1002), sink.close(1002))
        await self._close(source, sink)

    async def _close(
        self,
        source: ServerConnection | ClientConnection,
        sink: ServerConnection | ClientConnection,
    ) -> None:
        code = source.close_code or ABNORMAL
        if code in (ABNORMAL, 1005):
            sink.transport.abort()
        else:
            await sink.close(self._close_codes.get(code, code), source.close_reason or "")

    def _altered(
        self, message: bytes | str, decode: Callable[[bytes | str, int], Decoded[Any]], alter: Alter
    ) -> Sequence[bytes | str]:
        try:
            decoded = decode(message, MAX_BYTES)
        except ProtocolError:
            return [message]
        if decoded.unknown_types:
            if self._refuses_unknown:
                raise _UnknownType
            return [message]
        frames = alter(list(decoded.frames))
        if frames == decoded.frames:
            return [message]
        return [VERSION_1.encode(frames)] if frames else []


class _UnknownType(Exception):
    pass
