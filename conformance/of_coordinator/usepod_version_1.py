"""Which cases of version 1 apply to a coordinator of the dialect `usepod`, and the reasons."""

from collections.abc import Sequence
from typing import Final

from provider_agent.conformance.usepod_cases import VersionOneCases

_APPLICABLE: Final = {
    "challenge-first": "The first message is `auth_challenge`, sent at once.",
    "nonce-fresh": "Each connection has a fresh nonce.",
    "signature-key": "A signature of another key: `auth_failed` or none, and the end.",
    "signature-nonce": "A signature over another nonce: `auth_failed` or none, and the end.",
    "frame-before-hello": "Another message before `auth_response` ends the connection.",
    "handshake-timeout": "A handshake that takes longer than 10 s is ended.",
    "offered-models": "No job is sent for a model that the agent does not offer.",
    "names-unknown": "An unknown `error_code` ends no connection.",
    "response-streams": "Bytes reach the client before `job_done`.",
    "error": "A `job_error` before the first byte is an error for the client.",
    "error-late": "After a late `job_error` the response does not look complete to the client.",
    "end-twice": "A second `job_done` is ignored.",
    "unknown-job": "A `job_chunk` of an unknown job is ignored.",
    "cancel": "A client that disconnects causes `job_cancel`.",
    "traffic-messages": "Every message is text and a well-formed JSON object.",
    "traffic-states": "`auth_challenge` and `auth_ok` are sent once, and first.",
    "traffic-job-ids": "No job id is used twice.",
    "traffic-offers": "Jobs are sent only for models that were offered.",
}

_OPEN: Final = "an open connection may skip what it does not expect"
_NO_WINDOW: Final = "the dialect has no window and no acknowledgements"
_ONE_MESSAGE: Final = "a request is a part of one message"

_REASONS: Final[dict[str, Sequence[str]]] = {
    "see usepod-upgrade; the dialect has no subprotocol": ("subprotocol",),
    "see usepod-auth-ok; `auth_ok` has no other field": ("welcome",),
    "the signature is bound to no address": ("signature-authority", "signature-host-header"),
    _OPEN: ("second-hello", "survives-malformed", "violation-order"),
    "see usepod-heartbeat; the dialect does not say how long an agent may be silent": (
        "heartbeat-patience",
        "heartbeat-timeout",
    ),
    "the dialect has no features": ("features-unknown", "traffic-features"),
    "the coordinator does not answer `capabilities`": ("routing-status",),
    "no message names the process of an agent": ("key-in-use", "key-replaced", "key-same-process"),
    "the dialect names no limits": (
        "message-too-big",
        "message-before-hello",
        "message-largest",
        "integer-largest",
    ),
    "see usepod-fields-unknown; the dialect does not say which fields are optional": ("defaults",),
    "see usepod-job, which compares JSON": ("job",),
    _ONE_MESSAGE: (
        "job-large",
        "job-pieces",
        "requests-overtaken",
        "cancel-request",
        "traffic-requests",
    ),
    "see usepod-response; the dialect has no content type and no headers": (
        "response",
        "response-headers",
    ),
    "the dialect does not say what a response without a byte means": ("response-empty",),
    "the dialect has no receipts": ("receipts",),
    "a response begins with its first byte": ("chunk-first", "started-twice", "chunk-empty"),
    "messages have no offsets": ("chunk-gap", "total-bytes"),
    "the dialect has no drain": ("draining-agent",),
    _NO_WINDOW: (
        "final-ack",
        "final-ack-unknown",
        "cancel-acks",
        "ack-early",
        "ack-quarter",
        "window-exceeded",
        "ack-passed-on",
        "window-per-job",
        "traffic-acks",
    ),
    "the dialect has no resumption; see usepod-reconnect": (
        "resume-part-running",
        "resume-part-ended",
        "resume-repeats",
        "resume-nothing-running",
        "resume-twice",
        "resume-request",
        "resume-nothing-unknown",
        "resume-part-unknown",
        "resume-gap",
        "resume-ended",
        "resume-cancelled",
        "resume-unknown",
        "resume-other-key",
        "resume-open",
        "resume-after-violation",
    ),
    "no list of the dialect has unique entries": ("traffic-lists",),
}

VERSION_1: Final = VersionOneCases(_APPLICABLE, _REASONS)
