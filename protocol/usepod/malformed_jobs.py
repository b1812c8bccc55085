"""Reads the id of a job whose message cannot be decoded, so that the agent refuses the job.

If the agent skipped the message, the coordinator would wait for the end of the job until the
deadline. The id is found if it is near the start of the message, and no object or array precedes
it, as in those of the marketplace.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from provider_agent.protocol.limits import KIB, MAX_NAME_CHARS
from provider_agent.protocol.usepod.messages import Job, JobIdText

_TEXT: Final = rf'"(?:[^"\\]|\\.){{0,{6 * MAX_NAME_CHARS}}}"'
"""A JSON string; an escape takes up to 6 characters."""

_FIRST_FIELDS: Final = re.compile(
    rf"\s*\{{((?:\s*{_TEXT}\s*:\s*(?:{_TEXT}|[-+.\w]+)\s*[,}}]){{1,16}})", re.ASCII
)
"""The fields of an object before the first value that is an object, an array or malformed."""

_SEARCHED_CHARS: Final = 16 * KIB
"""To search a whole message of 16 MiB would block the event loop for a second."""

_NO_REQUEST: Final = Raw(b"null")


class _JobHead(Struct, tag="job", frozen=True):
    """The fields of a job that its refusal needs."""

    job_id: JobIdText
    model_id: Raw = Raw(b"")


_DECODER: Final = msgspec.json.Decoder(_JobHead)
_TEXT_DECODER: Final = msgspec.json.Decoder(str)


def malformed_job(message: str, *, is_too_deep: bool) -> Job | None:
    """Return a job with the id of a malformed one, and a request that the agent refuses.

    Args:
        message: a message that cannot be decoded.
        is_too_deep: whether the reason is its depth. Then the message becomes the request, so that
            the refusal names the reason.

    Returns:
        The job; None if the message is not a job, or its id is not found.
    """
    fields = _FIRST_FIELDS.match(message, 0, _SEARCHED_CHARS)
    if fields is None:
        return None
    try:
        head = _DECODER.decode("{" + fields[1][:-1] + "}")
    except ValueError:
        return None
    try:
        model_id = _TEXT_DECODER.decode(head.model_id)
    except ValueError:
        model_id = ""
    request = Raw(message.encode()) if is_too_deep else _NO_REQUEST
    return Job(head.job_id, model_id, request)
