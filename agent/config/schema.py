"""Every section and key of `agent.toml`, with its type, its range and its default.

The Structs hold settings after all checks: paths are expanded, addresses are in one form, a
backend's `url` is filled in where its kind has a default.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from provider_agent.adapters.settings import PolicyMode, Seconds, TimeoutSettings
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.limits import MAX_INTEGER, MAX_LIVE_JOBS

MAX_CONCURRENT: Final = MAX_LIVE_JOBS
"""Jobs at once: as many as the protocol lets one agent hold."""

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Concurrency = Annotated[int, Meta(ge=1, le=MAX_CONCURRENT)]
Text = Annotated[str, Meta(max_length=512)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
FallbackUrls = Annotated[tuple[Name, ...], Meta(max_length=16)]


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs, in millionths of a US dollar per million tokens.

    Attributes:
        input_per_1m: for input tokens.
        output_per_1m: for output tokens.
    """

    input_per_1m: Count
    output_per_1m: Count


class OperatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who runs the agent; the coordinator may show it.

    Attributes:
        display_name: the agent's name for people.
        wallet: where earnings go.
        contact_email: whom to ask when something is wrong.
    """

    display_name: Text | None = None
    wallet: Text | None = None
    contact_email: Text | None = None


class CoordinatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where jobs come from.

    Attributes:
        url: the WebSocket address to dial.
        fallback_urls: dialled in turn when `url` does not answer.
        enrollment_code: shown at the first connection; a secret.
        allow_insecure: whether `ws://` may leave this machine.
        token_file: file with a bearer token for the upgrade request, read at every connection.
        ca_file: PEM certificates to trust instead of the system's.
        client_cert_file: PEM certificate to show to a coordinator that asks for one.
        client_key_file: its private key, PEM; None: it stands in `client_cert_file`.
        proxy: HTTP proxy to dial through; None: as `HTTPS_PROXY` and `NO_PROXY` say.
    """

    url: str
    fallback_urls: FallbackUrls = ()
    enrollment_code: Text | None = None
    allow_insecure: bool = False
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        code = "set" if self.enrollment_code else "none"
        return f"<CoordinatorConfig {self.url} enrollment_code={code}>"


class IdentityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent's own key.

    Attributes:
        key_path: file of the Ed25519 key; created at the first start.
    """

    key_path: Path


class BackendConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference server, or one key for a remote service.

    Attributes:
        kind: which adapter.
        url: base address without a trailing `/` or `/v1`; None for kinds without one.
        api_key_env: name of the environment variable that holds the key.
        api_key_file: file with nothing but the key, in place of `api_key_env`.
        markup: added to the upstream price of a passthrough; 0.05 is five per cent.
        models: which of its models are offered; None: all that fit, at passthroughs none.
        alias: advertised id → the server's own id.
        formats: wire formats it speaks; only `openai_compatible` has to be told.
        max_concurrent: jobs at once; None: the adapter's default.
        max_tokens_per_minute: input and output tokens that jobs on it may use; None: no limit.
        timeouts: the clocks of its requests.
        request_policy: what happens to request fields that spend the operator's money: refuse the
            job ("strict"), remove them ("strip"), or let them through ("pass").
        venice_system_prompt: whether Venice may put its own system prompt before the client's.
    """

    kind: Name
    url: str | None = None
    api_key_env: Name | None = None
    api_key_file: Path | None = None
    markup: Annotated[float, Meta(ge=0, le=10)] | None = None
    models: tuple[Name, ...] | None = None
    alias: dict[Name, Name] = {}
    formats: Annotated[tuple[WireFormat, ...], Meta(min_length=1)] | None = None
    max_concurrent: Concurrency | None = None
    max_tokens_per_minute: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    request_policy: PolicyMode = PolicyMode.STRIP
    venice_system_prompt: bool = False


class PricingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What models are offered for, in millionths of a US dollar per million tokens.

    Attributes:
        default_input_per_1m: input price of models not named below.
        default_output_per_1m: output price of models not named below.
        models: prices by model id.
    """

    default_input_per_1m: Count | None = None
    default_output_per_1m: Count | None = None
    models: dict[str, Price] = {}


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the agent takes on.

    Attributes:
        max_concurrent: jobs at once, all backends together.
        max_tokens_per_minute: input and output tokens of all jobs together; None: no limit.
        drain_timeout_s: how long a stopping agent waits for its jobs.
        slow_consumer_s: how long a job's window may stay full while the coordinator acknowledges
            nothing of it, before that job alone ends with `slow_consumer`.
    """

    max_concurrent: Concurrency = 8
    max_tokens_per_minute: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    drain_timeout_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 300.0
    slow_consumer_s: Seconds = 60.0


class DiscoveryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How backends are watched.

    Attributes:
        interval_s: between two looks at a healthy backend.
    """

    interval_s: Annotated[float, Meta(ge=1, le=24 * 3600)] = 60.0


class ObservabilityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the agent tells about itself.

    Attributes:
        prometheus_addr: `host:port` of the status server; "" turns it off.
        log_level: the least severe events that are logged.
        log_format: lines for people, or one JSON object per line.
    """

    prometheus_addr: str = "127.0.0.1:9090"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one agent, checked."""

    operator: OperatorConfig
    coordinator: CoordinatorConfig
    identity: IdentityConfig
    backends: tuple[BackendConfig, ...]
    pricing: PricingConfig
    limits: LimitsConfig
    discovery: DiscoveryConfig = DiscoveryConfig()
    observability: ObservabilityConfig
