"""The operator's settings of one backend. No value here comes from a job."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta, Struct

from provider_agent.protocol.formats import WireFormat

Seconds = Annotated[float, Meta(gt=0, le=24 * 3600)]


class BackendTimeouts(Struct, frozen=True, kw_only=True):
    """The four timeouts of one attempt, and that of a stalled server, in seconds.

    Attributes:
        connect_s: limit for opening a connection.
        first_byte_s: limit until the first byte of output, including queueing and prefill.
        silence_s: limit between two reads after output has started; SSE comments count as reads.
        total_s: limit for the attempt, in addition to the job's deadline.
        stall_s: how long the server may process no token of any request while jobs run, before it
            counts as down; None: it is not watched.
    """

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    silence_s: float = 120.0
    total_s: float = 3600.0
    stall_s: float | None = None

    def overridden(self, settings: "TimeoutSettings") -> "BackendTimeouts":
        """Return a copy in which the operator's timeouts replace these."""
        return BackendTimeouts(
            connect_s=settings.connect_s or self.connect_s,
            first_byte_s=settings.first_byte_s or self.first_byte_s,
            silence_s=settings.silence_s or self.silence_s,
            total_s=settings.total_s or self.total_s,
            stall_s=settings.stall_s or self.stall_s,
        )


class TimeoutSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's timeouts, as in `BackendTimeouts`; None selects the default of the kind."""

    connect_s: Seconds | None = None
    first_byte_s: Seconds | None = None
    silence_s: Seconds | None = None
    total_s: Seconds | None = None
    stall_s: Seconds | None = None


class PolicyMode(StrEnum):
    """What happens to the request fields and tools that the request policy does not list."""

    REFUSE = "refuse"
    """Reject the job."""
    STRIP = "strip"
    """Remove them."""
    PASS = "pass"  # noqa: S105 - not a password
    """Send the request as it is."""


class MediaUrls(StrEnum):
    """Which URLs a message may contain."""

    DATA = "data"
    """`data:` URLs only: the request contains the media."""
    ANY = "any"
    """Also `http:` and `https:` URLs, which the server fetches."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """The beginnings that a URL may have. `file:` is never one."""
        return ("data:",) if self is MediaUrls.DATA else ("data:", "http://", "https://")


class BackendSettings(Struct, frozen=True, kw_only=True):
    """The operator's settings of one backend.

    Attributes:
        kind: kind of the backend.
        url: base address without a trailing slash or `/v1`; "" selects the kind's default.
        api_key: the operator's API key. `repr` omits it, so that it is never logged.
        models: glob patterns of the models to offer; None offers all models of a native server
            and none of a passthrough.
        aliases: offered id → the server's id of the same model.
        formats: wire formats of a server whose formats cannot be detected (`openai_compatible`).
        max_concurrent: limit of concurrent jobs; None selects what the server reports, else the
            kind's default.
        timeouts: timeouts that differ from the kind's defaults.
        request_policy: what happens to fields and tools that the kind's request policy does not
            list.
        pass_fields: names of fields, and of types of tools and message parts, that are sent
            although the policy does not list them; dotted if nested, such as `tools.web_search`.
        strip_fields: names, as in `pass_fields`, that are not sent although the policy lists them.
        media_urls: which URLs messages may contain; None selects the kind's default.
        max_output_tokens: limit of the output tokens of a job; None selects the kind's default.
        venice_system_prompt: whether Venice may prepend its own system prompt.
    """

    kind: str
    url: str = ""
    api_key: str | None = None
    models: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = MappingProxyType({})
    formats: tuple[WireFormat, ...] = (WireFormat.OPENAI,)
    max_concurrent: int | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    request_policy: PolicyMode = PolicyMode.STRIP
    pass_fields: tuple[str, ...] = ()
    strip_fields: tuple[str, ...] = ()
    media_urls: MediaUrls | None = None
    max_output_tokens: int | None = None
    venice_system_prompt: bool = False

    def __repr__(self) -> str:
        key = "set" if self.api_key else "none"
        return f"<BackendSettings {self.kind} {self.url} api_key={key}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Omit the key: the default of `rich` for a Struct prints every field."""
        key = "set" if self.api_key else "none"
        return [("kind", self.kind), ("url", self.url), ("api_key", key)]
