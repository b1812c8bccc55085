"""Encodes the WebSocket frames of several messages at once, as a client (RFC 6455, section 5).

`websockets` encodes one message in about five times this time, most of it in objects and system
calls per message. In a dialect with a message per event, that is a large part of an event's cost.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from websockets.frames import Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without the C extension
    from websockets.utils import apply_mask

_MASK_BYTES: Final = 4
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_MAX_SHORT: Final = 125
_MAX_16_BIT: Final = 0xFFFF

_each_mask: Final = struct.Struct(f"{_MASK_BYTES}s").iter_unpack
_short_head: Final = struct.Struct("!BB4s").pack
_head_16_bit: Final = struct.Struct("!BBH4s").pack
_head_64_bit: Final = struct.Struct("!BBQ4s").pack


def encode_messages(
    messages: Sequence[bytes], *, is_text: bool, random_bytes: Callable[[int], bytes]
) -> bytes:
    """Return the frames of complete messages, one after another.

    Args:
        messages: the payloads; those of text messages are UTF-8.
        is_text: whether they are text messages; otherwise they are binary.
        random_bytes: returns that many unpredictable bytes, for the masks.
    """
    first = _FINAL | (Opcode.TEXT if is_text else Opcode.BINARY)
    masks = _each_mask(random_bytes(_MASK_BYTES * len(messages)))
    parts: list[bytes] = []
    for (mask,), message in zip(masks, messages, strict=True):
        size = len(message)
        if size <= _MAX_SHORT:
            parts.append(_short_head(first, _MASKED | size, mask))
        elif size <= _MAX_16_BIT:
            parts.append(_head_16_bit(first, _MASKED | 126, size, mask))
        else:
            parts.append(_head_64_bit(first, _MASKED | 127, size, mask))
        parts.append(apply_mask(message, mask))
    return b"".join(parts)
