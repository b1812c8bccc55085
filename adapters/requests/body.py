"""Prepares the body of a client's request for one server.

The body is written by the agent from what it has decoded and checked, so that the agent and the
server cannot interpret a duplicate, escaped or oddly spelled name differently. `model` is replaced
by the server's id. `stream_options.include_usage` is set in a streamed request of OpenAI's chat or
completions if the server reports token usage only on request and the job allows that change. Values
that no rule looks into keep their exact bytes: numbers, escapes and field order do not change.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.output_limit import limit_output
from provider_agent.adapters.requests.policy import RequestPolicy, apply_policy
from provider_agent.adapters.requests.rules import FIELDS
from provider_agent.adapters.requests.structure import (
    MAX_OTHER_VALUES,
    check_other_values,
    check_structure,
)
from provider_agent.adapters.settings import BackendSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.formats import Operation

log = EventLogger(__name__)

_ENCODER: Final = msgspec.json.Encoder()
_STREAM_OPTIONS_OPERATIONS: Final = frozenset({Operation.CHAT, Operation.COMPLETIONS})


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
    policy: RequestPolicy,
    settings: BackendSettings,
    extra_fields: Mapping[str, msgspec.Raw] | None = None,
    max_output_tokens: int | None = None,
    knows_only_max_tokens: bool = False,
    job_id: bytes = b"",
) -> UpstreamRequest:
    """Prepare a client's request for one server.

    Args:
        request: the client's request body.
        operation: the operation of the request.
        upstream_model: the server's id of the model.
        ask_for_usage: whether to set `stream_options.include_usage` in a streamed request of
            OpenAI's chat or completions.
        policy: the fields that are sent to this server.
        settings: the operator's settings of the backend.
        extra_fields: defaults that are added after the policy, if the request lacks them.
        max_output_tokens: limit of the output tokens; None for no limit.
        knows_only_max_tokens: whether the server ignores `max_completion_tokens`.
        job_id: the job, for the log.

    Raises:
        BadRequest: the request is not one JSON object, is too deep or has too many values, or the
            policy refuses it.
    """
    try:
        values = check_structure(request)
        found = FIELDS.decode(request)
        if values > MAX_OTHER_VALUES:
            check_other_values(found)
        fields, removed = apply_policy(
            found, operation, policy, settings, request_bytes=len(request)
        )
        if removed:
            log.debug("request fields removed", job=job_id.hex(), names=removed)
        for name, value in (extra_fields or {}).items():
            fields.setdefault(name, value)
        limit_output(fields, operation, max_output_tokens, one_name=knows_only_max_tokens)
        fields["model"] = upstream_model
        streamed = _is_true(fields.get("stream"))
        if streamed and ask_for_usage and operation in _STREAM_OPTIONS_OPERATIONS:
            fields["stream_options"] = _with_usage(fields.get("stream_options"))
        return UpstreamRequest(_ENCODER.encode(fields), streamed)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest("the request is not one JSON object") from error


def _is_true(value: object) -> bool:
    return isinstance(value, msgspec.Raw) and bytes(value) == b"true"


def _with_usage(options: object) -> object:
    """Return stream options that ask for usage; leave a wrong type for the server to reject."""
    if isinstance(options, msgspec.Raw):  # not checked by a rule, or null
        text = bytes(options)
        if not text.startswith(b"{") and text != b"null":
            return options
        options = FIELDS.decode(text) if text != b"null" else {}
    known = options if isinstance(options, dict) else {}
    # Servers written in Go (Ollama) would read another spelling, such as `Include_Usage`, too.
    kept = {
        name: value
        for name, value in known.items()
        if name == "include_usage" or name.casefold() != "include_usage"
    }
    return {**kept, "include_usage": True}
