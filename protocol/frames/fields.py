"""The types of fields."""

from typing import Annotated

from msgspec import Meta

from provider_agent.protocol.limits import (
    MAX_FEATURES,
    MAX_INTEGER,
    MAX_NAME_CHARS,
    MAX_TEXT_CHARS,
)

JobId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""The 16 bytes of a UUID, chosen by the coordinator and never reused."""

SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 bytes, chosen by the coordinator."""

Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Features = Annotated[list[Name], Meta(max_length=MAX_FEATURES)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
