"""The command `provider-agent coordinator`; also `python -m provider_agent.coordinator`."""

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet, parse_public_keys, read_entries
from provider_agent.coordinator.cluster.settings import DEFAULT_PREFIX, ClusterSettings
from provider_agent.coordinator.description import describe
from provider_agent.coordinator.exceptions import CannotListen, CoordinatorError, SettingsError
from provider_agent.coordinator.http.memory_size import default_request_memory
from provider_agent.coordinator.server import Coordinator, run
from provider_agent.coordinator.settings import (
    DEFAULT_PORT,
    RANGES,
    CoordinatorSettings,
    ExtraDialect,
    ReceiptMode,
)
from provider_agent.coordinator.variables import (
    AGENT_KEYS_VARIABLE,
    API_KEYS_VARIABLE,
    CLUSTER_VARIABLE,
    DIALECT_VARIABLE,
    ENROLLMENT_CODES_VARIABLE,
    check_variables,
)
from provider_agent.log_writer import handler_for
from provider_agent.protocol.limits import MAX_REQUEST_BYTES, MIB

_EXIT_WRONG_SETTINGS: Final = 2
_EXIT_FAILED: Final = 1
_EXIT_INTERRUPTED: Final = 130

DEFAULTS: Final = CoordinatorSettings()

_FILE = click.Path(dir_okay=False, path_type=Path)


def _count(setting: str) -> click.IntRange:
    lowest, highest = RANGES[setting]
    return click.IntRange(int(lowest), int(highest))


@click.command("coordinator", short_help="Run the reference coordinator.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: every IPv4 address, :: every address.",
)
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0: a free one.",
)
@click.option(
    "--api-keys",
    type=_FILE,
    help=f"File with the clients' API keys, one per line. Or ${API_KEYS_VARIABLE}, with commas.",
)
@click.option(
    "--enrollment-codes",
    type=_FILE,
    help=f"File with codes that admit an agent. Or ${ENROLLMENT_CODES_VARIABLE}.",
)
@click.option(
    "--agent-keys",
    type=_FILE,
    help=f"File with agents' public keys in base64. Or ${AGENT_KEYS_VARIABLE}.",
)
@click.option(
    "--authority",
    "authorities",
    multiple=True,
    metavar="HOST[:PORT]",
    help="An address that agents dial, such as the name of a proxy with TLS; may be repeated. "
    "Default: loopback, --host and the addresses of this machine.",
)
@click.option(
    "--dialect",
    "dialects",
    multiple=True,
    type=click.Choice([dialect.value for dialect in ExtraDialect]),
    help="Also accept agents of this protocol; may be repeated. usepod: the protocol of the Use "
    f"Pod marketplace. Or ${DIALECT_VARIABLE}, with commas.",
)
@click.option(
    "--receipts",
    default=ReceiptMode.OFF.value,
    show_default=True,
    type=click.Choice([mode.value for mode in ReceiptMode]),
    help="Receipts of responses: their hash, or also the agent's signature, which is logged.",
)
@click.option(
    "--max-price",
    type=click.FloatRange(min=0),
    metavar="USD",
    help="Send no jobs for models above this price per million tokens, or without a price.",
)
@click.option(
    "--drain-timeout",
    default=DEFAULTS.drain_s,
    show_default=True,
    type=click.FloatRange(*RANGES["drain_s"]),
    metavar="SECONDS",
    help="How long a stop waits for running requests.",
)
@click.option(
    "--max-queued",
    default=DEFAULTS.max_queued,
    show_default=True,
    type=_count("max_queued"),
    help="The most requests that wait until an agent has room.",
)
@click.option(
    "--queue-timeout",
    default=DEFAULTS.queue_s,
    show_default=True,
    type=click.FloatRange(*RANGES["queue_s"]),
    metavar="SECONDS",
    help="How long a request waits for room.",
)
@click.option(
    "--max-requests-per-minute",
    type=_count("max_requests_per_minute"),
    metavar="COUNT",
    help="The most requests of each API key per minute, over the whole cluster.",
)
@click.option(
    "--max-tokens-per-minute",
    type=_count("max_tokens_per_minute"),
    metavar="COUNT",
    help="The most input and output tokens of each API key per minute, over the whole cluster.",
)
@click.option(
    "--max-connections",
    default=DEFAULTS.max_connections,
    show_default=True,
    type=_count("max_connections"),
    help="The most connections of clients and agents.",
)
@click.option(
    "--max-request-memory",
    show_default="a quarter of the memory, at most 512",
    type=click.IntRange(MAX_REQUEST_BYTES // MIB, 2**30),
    metavar="MIB",
    help="The most memory for the bodies of running requests.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A reverse proxy whose X-Forwarded-For is believed, or a network; may be repeated.",
)
@click.option(
    "--cluster",
    multiple=True,
    metavar="URL",
    help="A NATS server, through which several coordinators serve one fleet; may be repeated. "
    f"Or ${CLUSTER_VARIABLE}, with commas.",
)
@click.option(
    "--cluster-prefix",
    default=DEFAULT_PREFIX,
    show_default=True,
    metavar="SUBJECT",
    help="The first part of all NATS subjects; the same for all coordinators of a cluster.",
)
@click.option(
    "--cluster-credentials",
    type=_FILE,
    help="File with the JWT and the seed of a NATS user.",
)
@click.option(
    "--cluster-ca",
    type=_FILE,
    help="File with the certificates that verify the NATS servers. Default: the system's.",
)
@click.option(
    "--cluster-cert",
    type=_FILE,
    help="File with a client certificate in PEM format, for NATS servers that request one.",
)
@click.option(
    "--cluster-key",
    type=_FILE,
    help="File with the private key of --cluster-cert. Default: the same file.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
)
def command(
    host: str,
    port: int,
    api_keys: Path | None,
    enrollment_codes: Path | None,
    agent_keys: Path | None,
    authorities: tuple[str, ...],
    dialects: tuple[str, ...],
    receipts: str,
    max_price: float | None,
    drain_timeout: float,
    max_queued: int,
    queue_timeout: float,
    max_requests_per_minute: int | None,
    max_tokens_per_minute: int | None,
    max_connections: int,
    max_request_memory: int | None,
    trusted_proxies: tuple[str, ...],
    cluster: tuple[str, ...],
    cluster_prefix: str,
    cluster_credentials: Path | None,
    cluster_ca: Path | None,
    cluster_cert: Path | None,
    cluster_key: Path | None,
    log_level: str,
) -> None:
    """Run the reference coordinator: an HTTP API for clients, WebSockets for agents.

    It is meant for development, tests and self-hosted fleets: a complete implementation of
    the protocol in one process, without persistent state, accounts, billing or TLS. Without keys it
    is open to everyone, and listens on loopback only.
    """
    _start_logging(log_level)
    try:
        options = {option for parameter in command.params for option in parameter.opts}
        check_variables(os.environ, options)
        settings = CoordinatorSettings(
            host=host,
            port=port,
            authorities=authorities,
            api_keys=_secrets(api_keys, API_KEYS_VARIABLE),
            enrollment_codes=_secrets(enrollment_codes, ENROLLMENT_CODES_VARIABLE),
            agent_keys=_public_keys(agent_keys),
            dialects=_dialects(dialects),
            receipts=ReceiptMode(receipts),
            max_price=max_price,
            drain_s=drain_timeout,
            max_queued=max_queued,
            queue_s=queue_timeout,
            max_requests_per_minute=max_requests_per_minute,
            max_tokens_per_minute=max_tokens_per_minute,
            max_connections=max_connections,
            max_held_request_bytes=_request_memory(max_request_memory),
            trusted_proxies=trusted_proxies,
            cluster=_cluster(
                ClusterSettings(
                    urls=cluster,
                    prefix=cluster_prefix,
                    credentials=cluster_credentials,
                    ca_file=cluster_ca,
                    certificate=cluster_cert,
                    key=cluster_key,
                )
            ),
        )
        gc.freeze()  # a full garbage collection then visits what requests allocate, not all modules
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(settings, _print_description))
    except CoordinatorError as error:
        click.echo(f"coordinator: {error}", err=True)
        sys.exit(_EXIT_FAILED if isinstance(error, CannotListen) else _EXIT_WRONG_SETTINGS)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_EXIT_INTERRUPTED)


def _dialects(given: tuple[str, ...]) -> frozenset[ExtraDialect]:
    names = given or read_entries(None, DIALECT_VARIABLE, os.environ) or ()
    try:
        return frozenset(ExtraDialect(name) for name in names)
    except ValueError as error:
        known = ", ".join(ExtraDialect)
        raise SettingsError(
            f"{DIALECT_VARIABLE}: contains an unknown dialect; known: {known}"
        ) from error


def _cluster(given: ClusterSettings) -> ClusterSettings | None:
    """Return the settings of the options, with the URLs of the variable if no option has one."""
    urls = given.urls or tuple(read_entries(None, CLUSTER_VARIABLE, os.environ) or ())
    if urls:
        return replace(given, urls=urls)
    if given != ClusterSettings(urls=()):
        raise SettingsError("--cluster-… options need --cluster")
    return None


def _request_memory(mebibytes: int | None) -> int:
    return default_request_memory() if mebibytes is None else mebibytes * MIB


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop factory; None if uvloop is not installed, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _secrets(path: Path | None, variable: str) -> SecretSet | None:
    entries = read_entries(path, variable, os.environ)
    return None if entries is None else SecretSet(entries)


def _public_keys(path: Path | None) -> frozenset[bytes] | None:
    entries = read_entries(path, AGENT_KEYS_VARIABLE, os.environ)
    return None if entries is None else parse_public_keys(entries)


def _print_description(coordinator: Coordinator) -> None:
    for line in describe(coordinator):
        click.echo(line, err=True)


class FieldsFormatter(logging.Formatter):
    """Appends the structured fields of an `EventLogger` record to its line."""

    _second, _text = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields: dict[str, object] = getattr(record, "fields", {})
        pairs = "".join(
            f" {name}={'none' if value is None else repr(value)}" for name, value in fields.items()
        )
        return super().format(record) + pairs

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time as `logging` does, but convert each second once."""
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._text = time.strftime(self.default_time_format, self.converter(second))
        return f"{self._text},{int(record.msecs):03d}"


def _start_logging(level: str) -> None:
    handler = handler_for(sys.stderr)
    handler.setFormatter(FieldsFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
