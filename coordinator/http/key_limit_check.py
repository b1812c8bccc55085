"""Refuses the requests of API keys that have reached a limit, and counts what a request used."""

import math
from collections.abc import Callable
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from provider_agent.coordinator.access import digest_of
from provider_agent.coordinator.http.api_keys import api_key_of
from provider_agent.coordinator.http.client_errors import ClientError, error_of_reason
from provider_agent.coordinator.http.request_record import RequestRecord
from provider_agent.coordinator.key_limits import ANYONE, KeyLimits, key_id
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.coordinator.usage_window import Unit
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import JobError

REQUEST_BYTES_PER_TOKEN: Final = 4
"""Of a request whose usage is unknown: about what English text has."""

RESPONSE_BYTES_PER_TOKEN: Final = 128
"""Of a response whose usage is unknown. Most of them are streams whose client disconnected; their
events have 100 to 300 bytes and one token."""

MAX_RETRY_AFTER_S: Final = 60
"""Older versions of the official clients ignore a longer `Retry-After`, and retry much sooner."""

_REASONS: Final = {Unit.REQUESTS: Reason.REQUEST_LIMIT, Unit.TOKENS: Reason.TOKEN_LIMIT}


def new_key_limits(settings: CoordinatorSettings, clock: Callable[[], float]) -> KeyLimits | None:
    """Return the limits of the keys in the settings; None if there is no limit."""
    requests, tokens = settings.max_requests_per_minute, settings.max_tokens_per_minute
    if requests is None and tokens is None:
        return None
    secrets = settings.api_keys
    keys = [ANYONE] if secrets is None else map(key_id, secrets.digests)
    return KeyLimits(keys, max_requests=requests, max_tokens=tokens, clock=clock)


class KeyLimitCheck:
    """Applies the limits to HTTP requests with a valid API key.

    Args:
        limits: the limits.
        needs_key: whether requests need a key; otherwise all of them count together.
    """

    def __init__(self, limits: KeyLimits, *, needs_key: bool) -> None:
        self._limits = limits
        self._needs_key = needs_key

    def __repr__(self) -> str:
        return f"<KeyLimitCheck {self._limits!r}>"

    def refusal(self, request: web.Request, record: RequestRecord) -> ClientError | None:
        """Count a request, or return why it is refused; then it does not count."""
        key = key_id(digest_of(api_key_of(request))) if self._needs_key else ANYONE
        reached = self._limits.accept(key)
        if reached is None:
            record.key = key
            return None
        error = error_of_reason(_REASONS[reached.unit], detail=f"{reached.limit:,}")
        wait_s = max(1, min(MAX_RETRY_AFTER_S, math.ceil(reached.wait_s)))
        return replace(error, retry_after_s=wait_s)

    def request_ended(self, record: RequestRecord) -> None:
        """Count the tokens of a request that was not refused here."""
        if record.key:
            self._limits.add_tokens(record.key, tokens_of(record))


def tokens_of(record: RequestRecord) -> int:
    """Return the tokens that a request counts: what the agent reported, or an estimate.

    The usage is unknown if the client disconnects before the end of the job, and from servers that
    report none. Without an estimate, clients could avoid the limit by disconnecting early.
    """
    job = record.job
    if job is None or record.operation is Operation.COUNT_TOKENS:
        return 0
    input_tokens, output_tokens = record.plausible_tokens
    if isinstance(job.end, JobError) and not record.response_bytes:  # probably nothing was run
        return (input_tokens or 0) + (output_tokens or 0)
    if input_tokens is None:
        input_tokens = (record.request_bytes or 0) // REQUEST_BYTES_PER_TOKEN
    if output_tokens is None:
        output_tokens = record.response_bytes // RESPONSE_BYTES_PER_TOKEN
    return input_tokens + output_tokens
