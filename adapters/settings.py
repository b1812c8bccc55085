"""What an operator says about one backend. No value here comes from a job."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from provider_agent.protocol.formats import WireFormat


class BackendTimeouts(Struct, frozen=True, kw_only=True):
    """The four clocks of a job, in seconds; each names itself in the error it raises.

    Attributes:
        connect_s: for a connection to open.
        first_byte_s: from the request to the first byte of output; queueing and prefill count.
        silence_s: between two reads once output has begun; comments count as a sign of life.
        total_s: for the whole job, beside the job's own deadline.
    """

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    silence_s: float = 120.0
    total_s: float = 3600.0

    def overridden(self, settings: "TimeoutSettings") -> "BackendTimeouts":
        """These clocks, with those that the operator has set."""
        return BackendTimeouts(
            connect_s=settings.connect_s or self.connect_s,
            first_byte_s=settings.first_byte_s or self.first_byte_s,
            silence_s=settings.silence_s or self.silence_s,
            total_s=settings.total_s or self.total_s,
        )


class TimeoutSettings(Struct, frozen=True, kw_only=True):
    """The clocks that an operator has set; None: the kind's own. See `BackendTimeouts`."""

    connect_s: float | None = None
    first_byte_s: float | None = None
    silence_s: float | None = None
    total_s: float | None = None


class PolicyMode(StrEnum):
    """What happens to request fields that spend the operator's money; see `request_policy`."""

    STRICT = "strict"
    STRIP = "strip"
    PASS = "pass"  # noqa: S105 - no password


class BackendSettings(Struct, frozen=True, kw_only=True):
    """What an operator says about one backend; no value here comes from a job.

    Attributes:
        kind: which adapter.
        url: base address without a trailing slash or `/v1`; "" for kinds without one.
        api_key: the operator's key, or None. Never logged: `repr` leaves it out.
        models: which of the server's models are offered (shell-style globs); None: all that fit.
        aliases: advertised id → the server's id of the same model.
        formats: spoken by servers that cannot be asked (`openai_compatible`).
        max_concurrent: jobs at once; None: the kind's own default.
        timeouts: the clocks that differ from the kind's own.
        request_policy: what happens to fields that spend the operator's money.
        venice_system_prompt: whether Venice may put its own system prompt before the client's.
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
    venice_system_prompt: bool = False

    def __repr__(self) -> str:
        key = "set" if self.api_key else "none"
        return f"<BackendSettings {self.kind} {self.url} api_key={key}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """For rich, which would take a Struct's own, with the key."""
        key = "set" if self.api_key else "none"
        return [("kind", self.kind), ("url", self.url), ("api_key", key)]
