"""The jobs in the status."""

from msgspec import Struct


class RunningJobStatus(Struct, frozen=True, kw_only=True):
    """A running job in the status.

    Attributes:
        id: the job's id, in hex, as in the log.
        model_id: the model.
        backend_id: the id of the backend of the latest attempt.
        format: the job's wire format.
        age_s: seconds since the job arrived.
        first_byte_ms: from its arrival to the start of the response; None before that.
        bytes: the bytes of the response so far.
        bytes_per_second: over the last seconds; None before the first byte.
        tokens_per_second: an estimate: `bytes_per_second` divided by the mean bytes per token of
            the last jobs with the same backend, model and format. None without such jobs, because
            servers report tokens only at the end of a response.
    """

    id: str
    model_id: str
    backend_id: str
    format: str
    age_s: float
    first_byte_ms: float | None = None
    bytes: int = 0
    bytes_per_second: float | None = None
    tokens_per_second: float | None = None


class EndedJobStatus(Struct, frozen=True, kw_only=True):
    """An ended job in the status. Refused jobs are not among them.

    Attributes:
        id: the job's id, in hex, as in the log.
        model_id: the model.
        backend_id: the id of the backend of the last attempt.
        format: the job's wire format.
        outcome: "ok", or the error code.
        age_s: seconds since the end.
        duration_ms: from the job's arrival to its end.
        first_byte_ms: from its arrival to the first byte; None without one.
        bytes: the length of the response.
        input_tokens: as the server reported them; None if unknown.
        output_tokens: the same for output.
        input_price_per_1m: the offered price in millionths of a US dollar per million tokens; None:
            no price.
        output_price_per_1m: the same for output.
        earned: price times tokens, in millionths of a US dollar; None: unknown, or not a success.
        attempts: the number of attempts on all backends.
    """

    id: str
    model_id: str
    backend_id: str
    format: str
    outcome: str
    age_s: float
    duration_ms: int
    first_byte_ms: int | None = None
    bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_price_per_1m: int | None = None
    output_price_per_1m: int | None = None
    earned: float | None = None
    attempts: int = 1


class MinuteStatus(Struct, frozen=True, kw_only=True):
    """The jobs that ended in one minute. A minute without an ended job is not listed.

    Attributes:
        minutes_ago: 0 is the current minute, which is not complete.
        jobs: the number of ended jobs, without refused ones.
        failed: those of them that failed through the provider's fault.
        refused: the number of refused jobs.
        output_tokens: as the servers reported them, counted when a job ends.
        bytes: the bytes of the responses.
        first_byte_p50_ms: median time to the first byte; None without one.
        earned: price times tokens, in millionths of a US dollar.
    """

    minutes_ago: int
    jobs: int = 0
    failed: int = 0
    refused: int = 0
    output_tokens: int = 0
    bytes: int = 0
    first_byte_p50_ms: float | None = None
    earned: float = 0.0
