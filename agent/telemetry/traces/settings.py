"""Decides from the standard environment variables of OpenTelemetry whether to export traces.

The specification calls them "OpenTelemetry Environment Variable Specification" and "OpenTelemetry
Protocol Exporter"; the packages of the extra read those that are not here by themselves.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.advised_error import AdvisedError

INSTALL: Final = "pip install 'provider-agent[otel]'"

_MODULES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_DEFAULT_ENDPOINT: Final = "http://localhost:4318"
_PROTOCOL: Final = "http/protobuf"


class TraceSettingsError(AdvisedError):
    """The environment asks for traces that this agent cannot export."""


class TraceSettings(Struct, frozen=True):
    """How to export traces.

    Attributes:
        endpoint: the collector's address, for messages.
        schedule_delay_s: the longest time that a trace waits for others.
        max_queue: the most ended jobs that wait for their export.
        max_batch: the most spans in one request, apart from those of its last job. Few, because
            the event loop waits while the thread encodes them.
        flush_s: how long a stop waits until the queue is exported.
    """

    endpoint: str = _DEFAULT_ENDPOINT
    schedule_delay_s: float = 5.0
    max_queue: int = 2048
    max_batch: int = 64
    flush_s: float = 3.0


def is_installed() -> bool:
    """Whether the packages of the extra are installed."""
    try:
        return all(find_spec(name) is not None for name in _MODULES)
    except ModuleNotFoundError:  # a parent package is missing
        return False


def trace_settings(
    environ: Mapping[str, str], installed: Callable[[], bool] = is_installed
) -> TraceSettings | None:
    """Return how to export traces; None if the environment does not ask for them.

    Raises:
        TraceSettingsError: it asks for what is not installed, not supported or malformed.
    """
    exporter = _first(environ, "OTEL_TRACES_EXPORTER").lower()
    endpoint = _first(environ, *_ENDPOINTS)
    disabled = _first(environ, "OTEL_SDK_DISABLED").lower() == "true"
    if disabled or exporter == "none" or not (exporter or endpoint):
        return None
    if exporter not in ("", "otlp"):
        raise TraceSettingsError(
            f"OTEL_TRACES_EXPORTER={exporter} is not supported", "set it to otlp, or to none"
        )
    protocol = _first(environ, *_PROTOCOLS).lower()
    if protocol not in ("", _PROTOCOL):
        raise TraceSettingsError(
            f"the OTLP protocol {protocol} is not supported",
            f"set {_PROTOCOLS[0]}={_PROTOCOL} and the collector's port for HTTP (usually 4318)",
        )
    if endpoint and not _is_http(endpoint):
        # Not the address itself, which may contain a password.
        raise TraceSettingsError(
            "the address of the collector is not an http:// or https:// address",
            f"write it like {_DEFAULT_ENDPOINT} in OTEL_EXPORTER_OTLP_ENDPOINT",
        )
    if not installed():
        raise TraceSettingsError("OpenTelemetry is not installed", f"install it with: {INSTALL}")
    default = TraceSettings()
    max_queue = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", default.max_queue)
    max_batch = _number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.max_batch)
    delay_ms = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", round(default.schedule_delay_s * 1000))
    return TraceSettings(endpoint or _DEFAULT_ENDPOINT, delay_ms / 1000, max_queue, max_batch)


def _is_http(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _first(environ: Mapping[str, str], *names: str) -> str:
    """Return the first value that is not empty; an empty one counts as not set."""
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = _first(environ, name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:10]) <= 1_000_000):
        raise TraceSettingsError(
            f"{name} is not a number from 1 to 1000000", f"the default is {default}"
        )
    return int(text)
