"""Encode and decode one WebSocket message.

`Dialect` is the seam: another dialect of the same frames (JSON text, say) is another object with
these methods; nothing outside this module knows how frames look on the wire.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Generic, Protocol, TypeVar

import msgspec

from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.limits import MAX_FRAMES_PER_MESSAGE, SUBPROTOCOL

FrameT_co = TypeVar("FrameT_co", covariant=True)

_BOUNDED = msgspec.Meta(max_length=MAX_FRAMES_PER_MESSAGE)


class Decoded(Generic[FrameT_co]):
    """The frames of one message.

    Attributes:
        frames: in their order on the wire.
        unknown_types: frame types that this version does not know, which were skipped.
    """

    __slots__ = ("frames", "unknown_types")

    def __init__(self, frames: list[FrameT_co], unknown_types: list[int]) -> None:
        self.frames = frames
        self.unknown_types = unknown_types


class Dialect(Protocol):
    """How frames become messages. Decoding raises `ProtocolError`, never anything else."""

    @property
    def subprotocol(self) -> str:
        """The WebSocket subprotocol that names this dialect."""
        ...

    def encode(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> bytes:
        """One message with these frames, in this order."""
        ...

    def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
        """What an agent sent; at most `max_bytes` are accepted."""
        ...

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        """What a coordinator sent; at most `max_bytes` are accepted."""
        ...


class _FrameDecoder(Generic[FrameT_co]):
    """Decodes the messages of one direction."""

    def __init__(self, union: object, types: frozenset[int]) -> None:
        self._types = types
        self._all: msgspec.msgpack.Decoder[list[FrameT_co]] = msgspec.msgpack.Decoder(
            Annotated[list[union], _BOUNDED]  # type: ignore[valid-type]
        )
        self._one: msgspec.msgpack.Decoder[FrameT_co] = msgspec.msgpack.Decoder(union)
        self._raw: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(
            Annotated[list[msgspec.Raw], _BOUNDED]
        )

    def decode(self, message: bytes | str, max_bytes: int) -> Decoded[FrameT_co]:
        if isinstance(message, str):
            raise MalformedMessage("a text message; every message is binary")
        if len(message) > max_bytes:
            raise MessageTooBig(f"a message of {len(message)} bytes; {max_bytes} are accepted")
        try:
            frames = self._all.decode(message)
        except msgspec.ValidationError:
            return self._decode_one_by_one(message)
        except (ValueError, RecursionError) as error:
            raise MalformedMessage("not a MessagePack array of frames") from error
        if not frames:
            raise MalformedMessage("a message without frames")
        return Decoded(frames, [])

    def _decode_one_by_one(self, message: bytes) -> Decoded[FrameT_co]:
        """The slow way, taken only when a frame is of an unknown type or malformed."""
        frames: list[FrameT_co] = []
        unknown: list[int] = []
        try:
            for raw in self._raw.decode(message):
                frame_type = _HEAD.decode(raw).type
                if frame_type in self._types:
                    frames.append(self._one.decode(raw))
                else:
                    unknown.append(frame_type)
        except (ValueError, RecursionError) as error:
            raise MalformedMessage("a frame whose fields are not what its type says") from error
        return Decoded(frames, unknown)


class _Head(msgspec.Struct, array_like=True):
    """The type of a frame, whatever its fields are.

    They are skipped, not decoded: a list of them may be sixty times as big as the message.
    """

    type: int


_HEAD = msgspec.msgpack.Decoder(_Head)


def _types_of(union: object) -> frozenset[int]:
    return frozenset(
        frame.__struct_config__.tag
        for frame in union.__args__  # type: ignore[attr-defined]
    )


class MessagePackDialect:
    """The dialect of protocol version 1: one MessagePack array of frames per binary message."""

    subprotocol: Final = SUBPROTOCOL

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._from_agent: _FrameDecoder[AgentFrame] = _FrameDecoder(
            AgentFrame, _types_of(AgentFrame)
        )
        self._from_coordinator: _FrameDecoder[CoordinatorFrame] = _FrameDecoder(
            CoordinatorFrame, _types_of(CoordinatorFrame)
        )

    def encode(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> bytes:
        """One message with these frames, in this order."""
        return self._encoder.encode(frames)

    def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
        """What an agent sent.

        Raises:
            MessageTooBig: over `max_bytes`.
            MalformedMessage: anything else that is wrong with it.
        """
        return self._from_agent.decode(message, max_bytes)

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        """What a coordinator sent; raises as `decode_from_agent` does."""
        return self._from_coordinator.decode(message, max_bytes)


VERSION_1: Final[Dialect] = MessagePackDialect()
