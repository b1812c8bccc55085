"""One connection to the implementation under test, and a transcript of its frames."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar, cast

from msgspec import Struct
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from provider_agent.conformance.case import NotHeld, require
from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame

Frame = AgentFrame | CoordinatorFrame
FrameT = TypeVar("FrameT", bound=Frame)

ANSWER_S: Final = 5.0
"""How long an answer may take before it counts as missing, by default."""

SILENCE_S: Final = 0.5
"""How long the kit waits before it concludes that a frame does not arrive."""

MAX_RECEIVED_BYTES: Final = 64 * 1024 * 1024
"""The kit accepts larger messages than the protocol allows, so that it can report them."""

ABNORMAL: Final = 1006


class Entry(Struct, frozen=True):
    """One frame of a connection's transcript.

    Attributes:
        direction: seen from the kit.
        frame: the frame.
        at: the event loop's time.
    """

    direction: Literal["sent", "received"]
    frame: Frame
    at: float


class Peer:
    """The kit's end of one connection.

    Args:
        socket: the open WebSocket.
        decode: decodes a message of the other side.
        answer_s: how long an answer may take, in seconds.

    Attributes:
        answer_s: how long an answer may take, in seconds; the default of each `within_s`.
        transcript: the frames that were received, and those passed to `send` and `send_encoded`,
            in order.
        message_sizes: the size of each well-formed received message, in bytes.
        defect: why a received message is malformed; "" if none was.
        closed: set when the connection has ended.
    """

    def __init__(
        self,
        socket: ClientConnection | ServerConnection,
        decode: Callable[[bytes | str, int], Decoded[AgentFrame] | Decoded[CoordinatorFrame]],
        answer_s: float = ANSWER_S,
    ) -> None:
        self.socket = socket
        self.answer_s = answer_s
        self.transcript: list[Entry] = []
        self.message_sizes: list[int] = []
        self.defect = ""
        self.closed = asyncio.Event()
        self._decode = decode
        self._unread: list[Frame] = []
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="conformance peer")

    @property
    def received(self) -> list[Frame]:
        """Every received frame."""
        return [entry.frame for entry in self.transcript if entry.direction == "received"]

    def received_of(self, kind: type[FrameT], job_id: bytes | None = None) -> list[FrameT]:
        """Every received frame of a type, and of a job if one is given."""
        return [
            frame
            for frame in self.received
            if isinstance(frame, kind) and job_id in (None, getattr(frame, "job_id", None))
        ]

    # --- receiving ---------------------------------------------------------------------

    async def expect(
        self,
        kind: type[FrameT],
        job_id: bytes | None = None,
        *,
        within_s: float | None = None,
        where: Callable[[FrameT], bool] = lambda _frame: True,
    ) -> FrameT:
        """Wait for the oldest frame of a type, and of a job if given, that was not returned yet.

        Args:
            kind: the type.
            job_id: the job; None for any.
            within_s: how long to wait, in seconds; by default `answer_s`.
            where: a further condition on the frame.

        Raises:
            NotHeld: it does not arrive in time, or the connection ends first.
        """

        def matches(frame: Frame) -> bool:
            same_job = job_id in (None, getattr(frame, "job_id", None))
            return isinstance(frame, kind) and same_job and where(frame)

        return cast("FrameT", await self.next(matches, kind.__name__, within_s))

    async def next(
        self, matches: Callable[[Frame], bool], description: str, within_s: float | None = None
    ) -> Frame:
        """Wait for the oldest matching frame that was not returned yet; raises as `expect`."""
        limit_s = self.answer_s if within_s is None else within_s
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    for frame in self._unread:
                        if matches(frame):
                            self._unread.remove(frame)
                            return frame
                    require(not self.closed.is_set(), f"no {description}: {self._ending()}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NotHeld(f"no {description} within {limit_s:g} s") from None

    async def expect_none(self, kind: type[FrameT], job_id: bytes | None = None) -> None:
        """Wait `SILENCE_S`; raises `NotHeld` if an unread frame of the type (and job) arrived."""
        await self.settle()
        await asyncio.sleep(SILENCE_S)
        for frame in self._unread:
            same_job = job_id in (None, getattr(frame, "job_id", None))
            require(not (isinstance(frame, kind) and same_job), f"received a {kind.__name__}")

    async def expect_close(self, *codes: int, within_s: float | None = None) -> str:
        """Wait for the end of the connection with one of the close codes.

        Raises:
            NotHeld: it stays open, or ends with another code.
        """
        expected = " or ".join(map(str, codes))
        await self.expect_end_of_connection(within_s, expected)
        require(self.close_code in codes, f"{self._ending()}; expected {expected}")
        return f"closed with {self.close_code}"

    async def expect_end_of_connection(
        self, within_s: float | None = None, expected: str = "the end"
    ) -> None:
        """Wait for the end of the connection; raises `NotHeld` if it stays open."""
        limit_s = self.answer_s if within_s is None else within_s
        try:
            async with asyncio.timeout(limit_s):
                await self.closed.wait()
        except TimeoutError:
            raise NotHeld(f"not closed within {limit_s:g} s; expected {expected}") from None

    async def settle(self) -> None:
        """Wait until the other side's WebSocket library has received everything sent so far.

        The library answers pings in order, so it has received the frames before the ping. These
        frames may not have taken effect yet.

        Raises:
            NotHeld: the connection is closed, or the ping is not answered.
        """
        try:
            async with asyncio.timeout(self.answer_s):
                await (await self.socket.ping())
        except ConnectionClosed:
            await self.closed.wait()
            raise NotHeld(self._ending()) from None
        except TimeoutError:
            raise NotHeld("a ping was not answered") from None

    async def expect_open(self) -> str:
        """Check that the connection stays open for `SILENCE_S`, and then still answers a ping."""
        await self.settle()
        await asyncio.sleep(SILENCE_S)
        await self.settle()
        return "the connection stays open"

    @property
    def close_code(self) -> int:
        """The other side's close code; 1006 if it has sent no Close frame."""
        return self.socket.close_code or ABNORMAL

    def _ending(self) -> str:
        if self.defect:
            return f"it sent {self.defect}"
        reason = f" ({self.socket.close_reason})" if self.socket.close_reason else ""
        return f"the connection was closed with {self.close_code}{reason}"

    # --- sending ---------------------------------------------------------------

    async def send(self, *frames: Frame) -> None:
        """Send frames as one message, whether the protocol allows them or not."""
        await self.send_encoded(VERSION_1.encode(frames), *frames)

    async def send_encoded(self, message: bytes | str, *frames: Frame) -> None:
        """Send a message that encodes these frames."""
        self._record(frames)
        await self.send_raw(message)

    def _record(self, frames: Sequence[Frame]) -> None:
        """Add sent frames to the transcript."""
        now = asyncio.get_running_loop().time()
        self.transcript += [Entry("sent", frame, now) for frame in frames]

    async def send_raw(self, message: bytes | str | Sequence[bytes]) -> None:
        """Send one message with any content; does nothing on a closed connection.

        A sequence is sent as one message of several WebSocket fragments.
        """
        try:
            await self.socket.send(message)
        except ConnectionClosed:
            return

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a close handshake."""
        await self.socket.close(code, reason)
        await self.closed.wait()

    async def cut(self) -> None:
        """Abort the connection without a close handshake."""
        self.socket.transport.abort()
        await self._reader

    # --- the connection ----------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                decoded = self._decode(message, MAX_RECEIVED_BYTES)
                self.message_sizes.append(len(message))
                now = asyncio.get_running_loop().time()
                self.transcript += [Entry("received", frame, now) for frame in decoded.frames]
                self._unread += decoded.frames
                self._changed.set()
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            self.defect = str(error)
            self.socket.transport.abort()
        finally:
            self.closed.set()
            self._changed.set()
