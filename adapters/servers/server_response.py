"""A response that is read into memory: to an API request, or the error response of a failed job."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from provider_agent.adapters.base import InvalidResponse

BodyT = TypeVar("BodyT")


class ServerResponse(msgspec.Struct, frozen=True):
    """The complete response to an API request, or the error response of a failed job.

    Attributes:
        status: HTTP status.
        body: the whole body; of a failed job, its first `MAX_ERROR_BODY_BYTES`.
        headers: the headers, with case-insensitive names; empty for a failed job.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    def decode(self, body_type: type[BodyT]) -> BodyT:
        """Decode the JSON body as `body_type`.

        Raises:
            InvalidResponse: the body is not JSON or does not match the type.
        """
        try:
            return msgspec.json.decode(self.body, type=body_type)
        except (ValueError, RecursionError) as error:
            raise InvalidResponse("the server's answer does not have the expected shape") from error
