"""What the agent reads in the request of a job: the dialect names no operation.

The Rust agent sends every request to `/v1/chat/completions`. Here, a request without messages goes
to the operation that it was written for, or is refused if the model does not have that one: as a
chat request, it would lose the field that it is about.
"""

from typing import Final

import msgspec

from provider_agent.protocol.formats import Operation, WireFormat

_OBJECT_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder()


class ReceivedRequest(msgspec.Struct, frozen=True):
    """The request of a job.

    Attributes:
        body: its bytes. They ask for an event stream, which the coordinator expects, unless the
            operation has none or they are not a JSON object.
        operation: an `Operation`; "" is the main one of the format.
        add_usage: False if the request forbids that the server reports usage.
    """

    body: bytes
    operation: str = ""
    add_usage: bool = True


def read_request(body: bytes, wire_format: WireFormat) -> ReceivedRequest:
    """Return how to execute a request; bytes that already ask for a stream remain as they are."""
    fields = _fields(body)
    if fields is None:
        return ReceivedRequest(body)  # the job is refused later, with a reason
    operation = _operation(fields) if wire_format is WireFormat.OPENAI else ""
    options = _fields(bytes(fields.get("stream_options", b"")))
    add_usage = options is None or bytes(options.get("include_usage", b"")) != b"false"
    if operation != Operation.EMBEDDINGS and bytes(fields.get("stream", b"")) != b"true":
        body = _ENCODER.encode({**fields, "stream": True})
    return ReceivedRequest(body, operation, add_usage)


def _operation(fields: dict[str, msgspec.Raw]) -> str:
    if "messages" in fields:
        return ""
    if "prompt" in fields:
        return Operation.COMPLETIONS
    return Operation.EMBEDDINGS if "input" in fields else ""


def _fields(text: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the fields of a JSON object; None for anything else."""
    try:
        return _OBJECT_DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
