"""Encodes and decodes one WebSocket message.

Only this module knows the wire encoding of version 1. Another encoding of the same frames is
another implementation of `AgentDialect` or `CoordinatorDialect`, such as those in `usepod`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, Protocol, TypeVar

import msgspec

from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig
from provider_agent.protocol.frames import Ack, AgentFrame, CoordinatorFrame
from provider_agent.protocol.limits import (
    MAX_FRAMES_PER_MESSAGE,
    MAX_MESSAGE_TO_AGENT_BYTES,
    SUBPROTOCOL,
)

FrameT_co = TypeVar("FrameT_co", covariant=True)

_BOUNDED = msgspec.Meta(max_length=MAX_FRAMES_PER_MESSAGE)


class Decoded(Generic[FrameT_co]):
    """The frames of one message.

    Attributes:
        frames: the known frames, in wire order.
        unknown_types: the types of the frames that were skipped as unknown; in a text dialect, the
            types of messages.
    """

    __slots__ = ("frames", "unknown_types")

    def __init__(self, frames: list[FrameT_co], unknown_types: Sequence[int | str]) -> None:
        self.frames = frames
        self.unknown_types = unknown_types


class AgentDialect(Protocol):
    """A wire encoding of frames, on the agent's side of one connection.

    Decoding raises no exception but `ProtocolError`.
    """

    @property
    def subprotocol(self) -> str | None:
        """The WebSocket subprotocol of this dialect; None: it has none."""
        ...

    @property
    def is_text(self) -> bool:
        """Whether messages are text; otherwise they are binary."""
        ...

    @property
    def max_to_agent_bytes(self) -> int:
        """The largest message that the agent accepts."""
        ...

    @property
    def take_acks(self) -> Callable[[], list[Ack]] | None:
        """Called after encoded messages were written; returns the acknowledgements due since then.

        None: the coordinator sends acknowledgements.
        """
        ...

    def encode_messages(self, frames: Sequence[AgentFrame]) -> Sequence[bytes]:
        """Encode frames, in this order, as messages; leave out those that the dialect lacks.

        It may be called again with some of the frames, if a message cannot be sent.
        """
        ...

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        """Decode a coordinator's message of at most `max_bytes`."""
        ...


class CoordinatorDialect(Protocol):
    """A wire encoding of frames, on the coordinator's side of one connection.

    Decoding raises no exception but `ProtocolError`.
    """

    @property
    def name(self) -> str:
        """The name of this dialect, for operators."""
        ...

    @property
    def is_text(self) -> bool:
        """Whether messages are text; otherwise they are binary."""
        ...

    @property
    def only_streams(self) -> bool:
        """Whether agents answer every job with an event stream."""
        ...

    @property
    def max_unread_bytes(self) -> int | None:
        """How many bytes of a response its client may leave unread; None: the window limits them.

        The coordinator cancels a job that exceeds it.
        """
        ...

    @property
    def take_frames(self) -> Callable[[], list[AgentFrame]] | None:
        """Returns the frames that replace what agents do not send, since its last call.

        They follow from what was encoded. None: agents send all frames.
        """
        ...

    def encode_messages(self, frames: Sequence[CoordinatorFrame]) -> Sequence[bytes]:
        """Encode frames, in this order, as messages; leave out those that the dialect lacks."""
        ...

    def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
        """Decode an agent's message of at most `max_bytes`."""
        ...


class Dialect(AgentDialect, CoordinatorDialect, Protocol):
    """A wire encoding of frames for both sides."""

    @property
    def subprotocol(self) -> str:
        """The WebSocket subprotocol of this dialect."""
        ...

    def encode(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> bytes:
        """Encode frames, in this order, as one message."""
        ...

    def encode_messages(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> Sequence[bytes]:
        """Encode frames, in this order, as messages."""
        ...


class _FrameDecoder(Generic[FrameT_co]):
    """Decodes the messages of one direction."""

    def __init__(self, union: object, types: frozenset[int]) -> None:
        self._types = types
        self._all_frames: msgspec.msgpack.Decoder[list[FrameT_co]] = msgspec.msgpack.Decoder(
            Annotated[list[union], _BOUNDED]  # type: ignore[valid-type]
        )
        self._one_frame: msgspec.msgpack.Decoder[FrameT_co] = msgspec.msgpack.Decoder(union)
        self._raw_frames: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(
            Annotated[list[msgspec.Raw], _BOUNDED]
        )

    def decode(self, message: bytes | str, max_bytes: int) -> Decoded[FrameT_co]:
        if isinstance(message, str):
            raise MalformedMessage("a text message; messages must be binary")
        if len(message) > max_bytes:
            raise MessageTooBig(f"a message of {len(message)} bytes; the limit is {max_bytes}")
        try:
            frames = self._all_frames.decode(message)
        except msgspec.ValidationError:
            # A frame of an unknown type is skipped; any other invalid content is an error.
            return self._decode_one_by_one(message)
        except (ValueError, RecursionError) as error:
            raise MalformedMessage("not a MessagePack array of frames") from error
        if not frames:
            raise MalformedMessage("a message without frames")
        return Decoded(frames, [])

    def _decode_one_by_one(self, message: bytes) -> Decoded[FrameT_co]:
        """Decode frame by frame: skip unknown frames, and raise for a malformed one."""
        frames: list[FrameT_co] = []
        unknown: list[int] = []
        try:
            for raw in self._raw_frames.decode(message):
                frame_type = _FRAME_TYPE.decode(raw).type
                if frame_type in self._types:
                    frames.append(self._one_frame.decode(raw))
                else:
                    unknown.append(frame_type)
        except (ValueError, RecursionError) as error:
            raise MalformedMessage(
                f"not an array of at most {MAX_FRAMES_PER_MESSAGE} well-formed frames"
            ) from error
        return Decoded(frames, unknown)


class _FrameType(msgspec.Struct, array_like=True):
    """Decodes only the type of a frame.

    The fields are skipped: decoded into Python objects, they could take sixty times as much memory
    as the message.
    """

    type: int


_FRAME_TYPE = msgspec.msgpack.Decoder(_FrameType)


def _types_of(union: object) -> frozenset[int]:
    return frozenset(
        frame.__struct_config__.tag
        for frame in union.__args__  # type: ignore[attr-defined]
    )


class MessagePackDialect:
    """Protocol version 1: one MessagePack array of frames per binary message."""

    name: Final = SUBPROTOCOL
    subprotocol: Final = SUBPROTOCOL
    is_text: Final = False
    only_streams: Final = False
    max_unread_bytes: Final = None
    take_frames: Final = None
    max_to_agent_bytes: Final = MAX_MESSAGE_TO_AGENT_BYTES
    take_acks: Final = None

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._from_agent: _FrameDecoder[AgentFrame] = _FrameDecoder(
            AgentFrame, _types_of(AgentFrame)
        )
        self._from_coordinator: _FrameDecoder[CoordinatorFrame] = _FrameDecoder(
            CoordinatorFrame, _types_of(CoordinatorFrame)
        )

    def encode(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> bytes:
        """Encode frames, in this order, as one message."""
        return self._encoder.encode(frames)

    def encode_messages(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> Sequence[bytes]:
        """Encode frames, in this order, as one message."""
        return (self._encoder.encode(frames),)

    def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
        """Decode an agent's message.

        Raises:
            MessageTooBig: it is larger than `max_bytes`.
            MalformedMessage: it is invalid in any other way.
        """
        return self._from_agent.decode(message, max_bytes)

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        """Decode a coordinator's message; raises as `decode_from_agent` does."""
        return self._from_coordinator.decode(message, max_bytes)


VERSION_1: Final[Dialect] = MessagePackDialect()
