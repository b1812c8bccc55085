"""Reads docs/protocol/vectors.json, whose notation its first key describes."""

from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

FOLDER: Final = Path(__file__).parents[3] / "docs" / "protocol"


class Vector(Struct, rename={"sender": "from"}):
    """One message.

    Attributes:
        name: unique in its list.
        sender: `agent` or `coordinator`.
        message: hex, or a list of parts, or a text message.
        frame: the name of its frame; "" if there are several.
        frames: the frames that it decodes to, in the notation of the file.
        unknown_types: the types of its unknown frames.
        close_code: the code with which a receiver closes the connection; 0: it stays open.
        max_bytes: the receiver's limit of a message.
        or_frames: the frames that a receiver may decode instead of closing.
    """

    name: str
    sender: str
    message: Any
    frame: str = ""
    frames: list[Any] = []
    unknown_types: list[int] = []
    close_code: int = 0
    max_bytes: int = 4 * 1024 * 1024
    or_frames: list[Any] = []

    @property
    def data(self) -> bytes | str:
        """The WebSocket message."""
        match self.message:
            case {"text": str(text)}:
                return text
            case str():
                return bytes.fromhex(self.message)
        return b"".join(
            bytes.fromhex(part)
            if isinstance(part, str)
            else bytes.fromhex(part["repeat"]) * part["times"]
            for part in self.message
        )


class SignatureVector(Struct):
    seed: str
    public_key: str
    authority: str
    nonce: str
    signed_bytes: str
    signature: str


class ReceiptVector(Struct):
    seed: str
    public_key: str
    job_id: str
    model_id: str
    response: str
    sha256: str
    input_tokens: int | None
    output_tokens: int | None
    signed_bytes: str
    signature: str


class AuthorityVector(Struct):
    url: str
    authority: str | None
    """None: the URL has no valid authority."""


class Vectors(Struct):
    """The whole file."""

    about: list[str]
    frames: list[Vector]
    tolerated: list[Vector]
    malformed: list[Vector]
    integers_as_floats: list[Vector]
    authorities: list[AuthorityVector]
    signatures: list[SignatureVector]
    receipts: list[ReceiptVector]


VECTORS: Final = msgspec.json.decode((FOLDER / "vectors.json").read_bytes(), type=Vectors)


def frame_vector(name: str) -> Vector:
    """Return the vector of `frames` with this name."""
    return next(vector for vector in VECTORS.frames if vector.name == name)


def notation(value: object) -> object:
    """Return a decoded MessagePack value in the notation of the file."""
    match value:
        case bytes():
            return {"bin": value.hex()}
        case list():
            return [notation(one) for one in value]
        case dict():
            return {key: notation(one) for key, one in value.items()}
    return value


def plain(value: object) -> object:
    """Return a value in the notation of the file as MessagePack decodes it."""
    match value:
        case {"bin": str(text)}:
            return bytes.fromhex(text)
        case list():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
    return value
