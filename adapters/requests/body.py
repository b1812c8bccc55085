"""What the agent changes in a request, and nothing else.

`model` becomes the server's own id, a streamed OpenAI request asks for usage where the server
reports it only when asked, and what the request policy names is taken out. Every other field keeps
its exact bytes: values are never decoded, so numbers, escapes and the order of fields stay what the
client wrote. The outermost object is always written anew: a field that stands twice, or whose name
is escaped, must not mean one thing here and another at the server. For the same reason a `Model`
beside `model` is dropped: servers written in Go (Ollama) would take it for the same field.
"""

import msgspec

from provider_agent.adapters.errors import BadRequest
from provider_agent.adapters.requests.policy import RequestPolicy, apply_policy
from provider_agent.adapters.settings import PolicyMode
from provider_agent.protocol.formats import Operation

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_TRUE = msgspec.Raw(b"true")

_OWN_FIELDS = ("model", "stream", "stream_options")
"""What the agent sets or relies on."""

NO_POLICY = RequestPolicy()

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
    request: bytes,
    operation: Operation,
    upstream_model: str,
    *,
    ask_for_usage: bool,
    policy: RequestPolicy = NO_POLICY,
    mode: PolicyMode = PolicyMode.STRIP,
    extra_fields: dict[str, msgspec.Raw] | None = None,
) -> UpstreamRequest:
    """Make a client's request ready for one server.

    Args:
        request: one JSON object.
        operation: which operation it is for.
        upstream_model: the server's id of the model.
        ask_for_usage: whether this server reports a stream's usage only when asked.
        policy: fields that are not forwarded to this server.
        mode: what happens to such fields.
        extra_fields: the operator's own; set where the client's are not, after the policy.

    Raises:
        BadRequest: it is not one JSON object, or the policy refuses it.
    """
    try:
        fields = _without_lookalikes(_OBJECT.decode(request), _OWN_FIELDS)
        apply_policy(fields, policy, mode)
        for name, value in (extra_fields or {}).items():
            fields.setdefault(name, value)
        fields["model"] = msgspec.Raw(_ENCODER.encode(upstream_model))
        streamed = bytes(fields.get("stream", b"")) == b"true"
        if streamed and ask_for_usage and operation in _STREAM_OPTIONS_OPERATIONS:
            _ask_for_usage(fields)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not one JSON object") from error
    return UpstreamRequest(_ENCODER.encode(fields), streamed)


def _without_lookalikes(
    fields: dict[str, msgspec.Raw], own: tuple[str, ...]
) -> dict[str, msgspec.Raw]:
    """Without names that differ from the agent's own by case alone."""
    return {
        name: value for name, value in fields.items() if name in own or name.casefold() not in own
    }


def _ask_for_usage(fields: dict[str, msgspec.Raw]) -> None:
    """Set `stream_options.include_usage`; options of a wrong type are the server's to refuse."""
    options_raw = bytes(fields.get("stream_options", b"null"))
    if options_raw != b"null" and not options_raw.startswith(b"{"):
        return
    options = {} if options_raw == b"null" else _OBJECT.decode(options_raw)
    options = _without_lookalikes(options, ("include_usage",))
    options["include_usage"] = _TRUE
    fields["stream_options"] = msgspec.Raw(_ENCODER.encode(options))
