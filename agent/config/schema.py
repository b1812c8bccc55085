"""Every section and key of `agent.toml`, with its type, its range and its default.

The Structs hold validated settings: paths are expanded, addresses are normalized, and a backend's
`url` is its kind's default if the operator did not set one.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from provider_agent.adapters.settings import MediaUrls, PolicyMode, Seconds, TimeoutSettings
from provider_agent.agent.config.addresses import shown_url
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.limits import MAX_INTEGER, MAX_LIVE_JOBS

MAX_CONCURRENT: Final = MAX_LIVE_JOBS
"""Most jobs at once: the protocol's limit for one agent."""

DEFAULT_STATUS_ADDRESS: Final = "127.0.0.1:8490-8499"
"""Of the status server. IANA has assigned none of these ports, and no widespread program uses them.
There are ten, so that several agents can run on one machine."""

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Concurrency = Annotated[int, Meta(ge=1, le=MAX_CONCURRENT)]
Text = Annotated[str, Meta(max_length=512)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
HostNames = Annotated[tuple[Name, ...], Meta(max_length=16)]
FallbackUrls = Annotated[tuple[Name, ...], Meta(max_length=16)]


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """The price of a model, in millionths of a US dollar per million tokens.

    Attributes:
        input_per_1m: price of input tokens.
        output_per_1m: price of output tokens.
    """

    input_per_1m: Count
    output_per_1m: Count


class OperatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator of the agent; the coordinator may publish these values.

    Attributes:
        display_name: human-readable name of the agent.
        wallet: account that receives the earnings.
        contact_email: contact for problems.
    """

    display_name: Text | None = None
    wallet: Text | None = None
    contact_email: Text | None = None


class CoordinatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The connection to the coordinator, which sends jobs.

    Attributes:
        url: WebSocket address to dial.
        fallback_urls: addresses to dial in turn after `url` has failed.
        dialect: the protocol of the coordinators; None: each address decides, see `dialect_of`.
        enrollment_code: the code to send in `Hello`; a secret.
        allow_insecure: whether `ws://` to other machines is allowed.
        token_file: file with a bearer token for the upgrade request, read at every connection.
        ca_file: PEM certificates to trust instead of the system's.
        client_cert_file: PEM certificate for a coordinator that requests one.
        client_key_file: PEM private key of that certificate; None if `client_cert_file` holds it.
        proxy: HTTP proxy to dial through; None applies `HTTPS_PROXY` and `NO_PROXY`.
        coalesce_ms: how long the agent lets output accumulate after a message under load; 0: never.
    """

    url: str
    fallback_urls: FallbackUrls = ()
    dialect: Literal["provider-agent.v1", "usepod"] | None = None
    enrollment_code: Text | None = None
    allow_insecure: bool = False
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None
    coalesce_ms: Annotated[float, Meta(ge=0, le=10)] = 1.0

    def __repr__(self) -> str:
        code = "set" if self.enrollment_code else "none"
        return f"<CoordinatorConfig {shown_url(self.url)} enrollment_code={code}>"


class IdentityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent's own key.

    Attributes:
        key_path: file with the Ed25519 key; created at the first start.
    """

    key_path: Path


class WindowConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time of the week.

    Attributes:
        days: the days on which the window starts: mon, tue, wed, thu, fri, sat, sun; None: every
            day.
        start: local time, as "18:00".
        end: local time; one that is not after `start` is on the next day. "24:00" is midnight.
    """

    days: Annotated[tuple[Name, ...], Meta(min_length=1)] | None = None
    start: Name
    end: Name


class ScheduleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to serve.

    Attributes:
        time_zone: name of the time zone of the windows, as "Europe/Berlin"; None only without
            windows.
        windows: when to serve; empty: always.
    """

    time_zone: Name | None = None
    windows: Annotated[tuple[WindowConfig, ...], Meta(max_length=32)] = ()


class BackendConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference server, or one key for a remote service.

    Attributes:
        kind: selects the adapter.
        url: base address without a trailing `/` or `/v1`; None for kinds without an address.
        api_key_env: name of the environment variable that holds the key.
        api_key_file: file that contains only the key, instead of `api_key_env`.
        markup: share that is added to the upstream price of a passthrough: 0.05 is five percent.
        overflow: whether a passthrough also runs jobs of a model that another backend offers; the
            model then has the highest price of these backends.
        models: names or shell patterns of the offered models; None offers all models of a native
            backend, and none of a passthrough.
        alias: offered model id → the server's own id.
        formats: wire formats of an `openai_compatible` server; other adapters define theirs.
        max_concurrent: most jobs at once; None selects the value that the server reports, else the
            adapter's default.
        max_tokens_per_minute: limit for input and output tokens of its jobs; None for no limit.
        timeouts: timeouts of its jobs.
        request_policy: treatment of request fields and tools that the kind's policy does not list:
            refuse the job ("refuse"), remove them ("strip"), or keep them ("pass").
        pass_fields: request fields that are kept although the kind's policy does not list them.
        strip_fields: request fields that are removed although the kind's policy lists them.
        media_urls: which URLs messages may contain: "data" for `data:` URLs only, "any" also for
            URLs that the server fetches; None selects the default of the kind.
        max_output_tokens: most output tokens of a job; None selects the default of the kind.
        venice_system_prompt: whether Venice may put its own system prompt before the client's.
        schedule: when the backend serves, within the agent's own schedule; None: always. Its time
            zone is that of the agent's schedule by default.
    """

    kind: Name
    url: str | None = None
    api_key_env: Name | None = None
    api_key_file: Path | None = None
    markup: Annotated[float, Meta(ge=0, le=10)] | None = None
    overflow: bool = False
    models: tuple[Name, ...] | None = None
    alias: dict[Name, Name] = {}
    formats: Annotated[tuple[WireFormat, ...], Meta(min_length=1)] | None = None
    max_concurrent: Concurrency | None = None
    max_tokens_per_minute: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    request_policy: PolicyMode = PolicyMode.STRIP
    pass_fields: tuple[Name, ...] = ()
    strip_fields: tuple[Name, ...] = ()
    media_urls: MediaUrls | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    venice_system_prompt: bool = False
    schedule: ScheduleConfig | None = None


class PricingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of the offered models, in millionths of a US dollar per million tokens.

    Attributes:
        default_input_per_1m: input price of models not named below.
        default_output_per_1m: output price of models not named below.
        models: prices by model id.
    """

    default_input_per_1m: Count | None = None
    default_output_per_1m: Count | None = None
    models: dict[str, Price] = {}


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the whole agent.

    Attributes:
        max_concurrent: most jobs at once on all backends together.
        max_tokens_per_minute: limit for input and output tokens of all jobs; None for no limit.
        drain_timeout_s: how long a stopping agent waits for its jobs.
        slow_consumer_s: how long more than half of a job's window, or its end, may stay
            unacknowledged without an acknowledgement of its stream; then that job alone ends with
            `slow_consumer`.
    """

    max_concurrent: Concurrency = 8
    max_tokens_per_minute: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    drain_timeout_s: Annotated[float, Meta(ge=0, le=24 * 3600)] = 300.0
    slow_consumer_s: Seconds = 60.0


class DiscoveryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Health checks of backends.

    Attributes:
        interval_s: seconds between two health checks of a healthy backend.
        liveness_interval_s: the most seconds between two liveness checks of an idle backend; 0:
            none.
    """

    interval_s: Annotated[float, Meta(ge=1, le=24 * 3600)] = 60.0
    liveness_interval_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class ObservabilityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Status server and logs.

    Attributes:
        prometheus_addr: `host:port` of the status server, or `host:first-last`, of which the first
            free port is used; "" turns it off.
        log_level: lowest level that is logged.
        log_format: "text" for human-readable lines, "json" for one object per line.
        ledger_path: the file of ended jobs, for accounting; None: no ledger.
        allowed_hosts: further host names that the status server answers for.
    """

    prometheus_addr: str = DEFAULT_STATUS_ADDRESS
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    ledger_path: Path | None = None
    allowed_hosts: HostNames = ()


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one agent, validated."""

    operator: OperatorConfig
    coordinator: CoordinatorConfig
    identity: IdentityConfig
    backends: tuple[BackendConfig, ...]
    pricing: PricingConfig
    limits: LimitsConfig
    discovery: DiscoveryConfig = DiscoveryConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    observability: ObservabilityConfig
