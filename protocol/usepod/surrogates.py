r"""Decodes jobs whose request has single surrogates, such as `\ud83d`, which msgspec refuses.

JSON allows them as escapes, and JavaScript writes them when a text was cut inside of a character.
The agent refuses such a request later, with a reason. If it skipped the message, the coordinator
would wait for the end of the job until the deadline.
"""

import json
import re
from typing import Final

import msgspec
from msgspec.structs import replace

from provider_agent.protocol.usepod.messages import Job

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")

_DECODER: Final = msgspec.json.Decoder(Job)


def job_with_surrogates(message: str) -> Job | None:
    """Return the job; None for every other message that msgspec does not decode."""
    if _SURROGATE.search(message) is None:
        return None
    try:
        fields: object = json.loads(message)
        if not isinstance(fields, dict) or "request" not in fields:
            return None
        request = json.dumps(fields["request"]).encode()
        job = _DECODER.decode(json.dumps({**fields, "request": None}))
    except (ValueError, RecursionError):
        return None
    return replace(job, request=msgspec.Raw(request))
