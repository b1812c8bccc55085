"""What the agent changes in a request, and nothing else.

`model` becomes the server's own id, and a streamed OpenAI request asks for usage where the server
reports it only when asked. Every other field keeps its exact bytes: values are never decoded, so
numbers, escapes and the order of fields stay what the buyer wrote.
"""

import msgspec

from adapters.base import BadRequest
from protocol.formats import Operation

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_TRUE = msgspec.Raw(b"true")

_STREAM_OPTIONS_OPERATIONS = frozenset({Operation.CHAT, Operation.COMPLETIONS})


class UpstreamRequest(msgspec.Struct, frozen=True):
    """A request as it goes to the server.

    Attributes:
        body: one JSON object.
        streamed: whether it asks for a stream.
    """

    body: bytes
    streamed: bool


def prepare_request(
    request: bytes, operation: Operation, upstream_model: str, *, ask_for_usage: bool
) -> UpstreamRequest:
    """Make a buyer's request ready for one server.

    Args:
        request: one JSON object.
        operation: which operation it is for.
        upstream_model: the server's id of the model.
        ask_for_usage: whether this server reports a stream's usage only when asked.

    Raises:
        BadRequest: it is not one JSON object.
    """
    try:
        fields = _OBJECT.decode(request)
        streamed = bytes(fields.get("stream", b"")) == b"true"
        changed = _set_model(fields, upstream_model)
        if streamed and ask_for_usage and operation in _STREAM_OPTIONS_OPERATIONS:
            changed = _ask_for_usage(fields) or changed
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not one JSON object") from error
    return UpstreamRequest(_ENCODER.encode(fields) if changed else request, streamed)


def _set_model(fields: dict[str, msgspec.Raw], upstream_model: str) -> bool:
    wanted = _ENCODER.encode(upstream_model)
    if "model" in fields and bytes(fields["model"]) == wanted:
        return False
    fields["model"] = msgspec.Raw(wanted)
    return True


def _ask_for_usage(fields: dict[str, msgspec.Raw]) -> bool:
    """Set `stream_options.include_usage`; options of a wrong type are the server's to refuse."""
    options_raw = bytes(fields.get("stream_options", b"null"))
    if options_raw == b"null":
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
        return True
    if not options_raw.startswith(b"{"):
        return False
    options = _OBJECT.decode(options_raw)
    if bytes(options.get("include_usage", b"")) == b"true":
        return False
    options["include_usage"] = _TRUE
    fields["stream_options"] = msgspec.Raw(_ENCODER.encode(options))
    return True
