import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.coalescing import Coalescing
from provider_agent.agent.link.link_connection import LinkConnection
from provider_agent.agent.link.message_encoder import MessageEncoder
from provider_agent.agent.link.writer import LinkWriter
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import AgentFrame, Draining, Heartbeat, ResponseFrame
from provider_agent.protocol.limits import MIB
from provider_agent.websocket.write_progress import WRITE_STALL_S, WriteProgress
from tests.kit.job_channels import open_started
from tests.kit.virtual_time import in_virtual_time, now

HEARTBEAT = Heartbeat(1, 0, 8, None, None, None, None)


class FullConnection:
    """A connection whose write buffer is full after each message."""

    is_open = True

    def __init__(self) -> None:
        self.paused = False
        self.on_writable: Callable[[], None] = lambda: None
        self.messages: list[bytes] = []

    def write_messages(self, messages: Sequence[bytes], *, is_text: bool) -> None:
        assert not is_text
        self.messages += messages
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.on_writable()


class LostConnection(FullConnection):
    """A connection that is lost during the first write; the loop reports that in its next turn."""

    @property
    def transport(self) -> "LostConnection":
        return self

    def is_closing(self) -> bool:
        return bool(self.messages)

    def write_messages(self, messages: Sequence[bytes], *, is_text: bool) -> None:
        assert not is_text
        self.messages += messages
        asyncio.get_running_loop().call_soon(setattr, self, "is_open", False)


def ignore(_frame: ResponseFrame) -> None:
    pass


@in_virtual_time
async def test_frame_that_is_queued_during_the_encoding_waits_for_space() -> None:
    # The end of a job whose frame cannot be encoded is queued like this. It was sent although the
    # write buffer was full, and the second wait for space was never recorded as ended.
    connection, outbox, progress = FullConnection(), Outbox(), WriteProgress()

    def encode(frames: Sequence[AgentFrame]) -> list[bytes]:
        if HEARTBEAT in frames:
            outbox.put(Draining(1))
        return [type(frames[0]).__name__.encode()]

    writer = LinkWriter(
        cast("LinkConnection", connection),
        outbox,
        MessageEncoder(encode, 1000, ignore),
        Coalescing(0.0),
        progress,
    )
    outbox.put(HEARTBEAT)
    writer.start()
    await asyncio.sleep(1)
    assert connection.messages == [b"Heartbeat"]

    connection.resume()
    await asyncio.sleep(1)
    assert connection.messages == [b"Heartbeat", b"Draining"]

    connection.resume()
    await asyncio.sleep(2 * WRITE_STALL_S)
    assert not progress.stalled(0, now())
    writer.stop()


@in_virtual_time
async def test_nothing_is_written_after_the_connection_was_lost() -> None:
    # asyncio logged "socket.send() raised exception." up to eleven times.
    connection, outbox = LostConnection(), Outbox(MIB)
    channel, _ = open_started(outbox, b"j" * 16)
    channel.send_chunk(bytes(MIB))
    writer = LinkWriter(
        cast("LinkConnection", connection),
        outbox,
        MessageEncoder(VERSION_1.encode_messages, MIB, ignore),
        Coalescing(0.0),
        WriteProgress(),
    )
    writer.start()
    await asyncio.sleep(1)

    assert len(connection.messages) == 1
    writer.stop()
