"""Prepares the body of a client's request for one server.

`model` is replaced by the server's id. `stream_options.include_usage` is set in a streamed request
of OpenAI's chat or completions if the server reports token usage only on request and the job allows
that change. The request policy is applied. All other values keep their exact bytes: they are never
decoded, so numbers, escapes and field order do not change.

The outermost object is always encoded again, so that the agent and the server cannot interpret a
duplicate or escaped field name differently. For the same reason a field such as `Model` is dropped:
servers written in Go (Ollama) match names case-insensitively.
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
"""Fields that the agent sets or depends on."""

NO_POLICY = RequestPolicy()

_STREAM_OPTIONS_OPERATIONS = frozenset({Operation.CHAT, Operation.COMPLETIONS})


class UpstreamRequest(msgspec.Struct, frozen=True):
    """A request that is ready to be sent to a server.

    Attributes:
        body: one JSON object.
        streamed: whether the client wants a stream.
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
    """Prepare a client's request for one server.

    Args:
        request: the client's request body.
        operation: the operation of the request.
        upstream_model: the server's id of the model.
        ask_for_usage: whether to set `stream_options.include_usage` in a streamed request of
            OpenAI's chat or completions.
        policy: fields that are not forwarded to this server.
        mode: whether such a field is removed, fails the job or is forwarded.
        extra_fields: defaults that are added after the policy, if the request lacks them.

    Raises:
        BadRequest: the request is not one JSON object, or the policy rejects it.
    """
    try:
        fields = _without_case_variants(_OBJECT.decode(request), _OWN_FIELDS)
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


def _without_case_variants(
    fields: dict[str, msgspec.Raw], own: tuple[str, ...]
) -> dict[str, msgspec.Raw]:
    """Return the fields without those that differ from an own field only by case."""
    return {
        name: value for name, value in fields.items() if name in own or name.casefold() not in own
    }


def _ask_for_usage(fields: dict[str, msgspec.Raw]) -> None:
    """Set `stream_options.include_usage`. Options of a wrong type stay: the server rejects them."""
    options_raw = bytes(fields.get("stream_options", b"null"))
    if options_raw != b"null" and not options_raw.startswith(b"{"):
        return
    options = {} if options_raw == b"null" else _OBJECT.decode(options_raw)
    options = _without_case_variants(options, ("include_usage",))
    options["include_usage"] = _TRUE
    fields["stream_options"] = msgspec.Raw(_ENCODER.encode(options))
