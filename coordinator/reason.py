"""Why the coordinator itself, not an agent, answers a request with an error."""

from enum import StrEnum


class Reason(StrEnum):
    """`reason` in the log line of a request; docs/coordinator.md explains each."""

    # No job was sent.
    NO_AGENT = "no_agent"
    NOT_OFFERED = "not_offered"
    UNROUTABLE = "unroutable"
    WRONG_OPERATION = "wrong_operation"
    STREAM_REQUIRED = "stream_required"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    PROVIDER_OFFLINE = "provider_offline"
    MODEL_WITHDRAWN = "model_withdrawn"
    PROVIDER_STOPPING = "provider_stopping"

    # Before or during a job.
    COORDINATOR_STOPPING = "coordinator_stopping"
    PROVIDER_LOST = "provider_lost"

    # The request was not accepted.
    TOO_MANY_REQUESTS = "too_many_requests"
    NO_MEMORY = "no_memory"
    REQUEST_LIMIT = "request_limit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - no secret
    COMPRESSED_BODY = "compressed_body"
    CONTENT_TYPE = "content_type"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    INVALID_JSON = "invalid_json"
    INVALID_MODEL = "invalid_model"
