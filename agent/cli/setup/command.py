"""`provider-agent setup`: the command."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from provider_agent.agent.backends.local_servers import WELL_KNOWN_PORTS
from provider_agent.agent.cli.found_servers import ports_text
from provider_agent.agent.cli.init.document import Answers, OfferedServer
from provider_agent.agent.cli.init.options import config_file_option, force_option, ports_option
from provider_agent.agent.cli.init.prices import Prices
from provider_agent.agent.cli.init.servers import search_servers
from provider_agent.agent.cli.init.writing import (
    can_ask,
    checked_key_path,
    config_argument,
    make_folder,
    own_key,
    print_missing_keys,
    refuse_existing,
    settings_path,
    write_settings,
)
from provider_agent.agent.cli.settings import SetupError, run_async
from provider_agent.agent.cli.setup.addresses import USEPOD_URL, Marketplace, marketplace_at
from provider_agent.agent.cli.setup.pairing_client import PairingClient
from provider_agent.agent.cli.setup.pairing_messages import (
    Activation,
    DetectedBackend,
    PairingFailed,
)
from provider_agent.agent.cli.setup.screen import Countdown, show_code
from provider_agent.agent.cli.setup.waiting import WaitingClock, wait_for_activation
from provider_agent.agent.cli.terminal import counted, visible
from provider_agent.agent.config import Price
from provider_agent.agent.config.dialect import USEPOD
from provider_agent.agent.config.files import default_key_path, expand
from provider_agent.agent.config.flags import variable_of
from provider_agent.agent.config.prices import dollars
from provider_agent.agent.config.schema import MAX_CONCURRENT
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.identity.provider_id import store_provider_id
from provider_agent.agent.telemetry.logs import configure_logging

DEFAULT_PRICE: Final = Price(500_000, 1_000_000)
"""Of models that the operator did not activate; the same as of the Rust agent."""

DEFAULT_MAX_CONCURRENT: Final = 4
"""Without activated models; the same as of the Rust agent."""

MAX_NAMED_MODELS: Final = 20
"""The most activated models that the output lists."""

EXIT_NOT_PAIRED: Final = 1
"""The marketplace is unreachable, refuses the pairing, or the code has expired."""


class PairingError(click.ClickException):
    """The pairing has failed; nothing was written but the key."""

    exit_code = EXIT_NOT_PAIRED


@click.command(short_help="Pair with the Use Pod marketplace; write agent.toml.")
@config_file_option
@click.option(
    "--coordinator-url",
    "--coordinator",
    "coordinator_url",
    envvar=variable_of("coordinator.url"),
    default=USEPOD_URL,
    show_default=True,
    help="The marketplace: https://… or the address that the agent dials, wss://…",
)
@click.option(
    "--allow-insecure", is_flag=True, help="Allow unencrypted connections to other machines."
)
@click.option(
    "--key-path",
    envvar=variable_of("identity.key_path"),
    default="",
    help="[identity] key_path. [default: identity.key in ~/.config/provider-agent; else, if it "
    "exists, in ~/.usepod-agent]",
)
@ports_option
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@force_option
def setup(
    config_path: Path | None,
    coordinator_url: str,
    allow_insecure: bool,
    key_path: str,
    ports: tuple[int, ...],
    yes: bool,
    force: bool,
) -> None:
    """Pair this agent with your account at the marketplace, and write agent.toml and the key.

    It finds the inference servers of this machine as `init` does, and shows a code. You enter the
    code on the page of the marketplace, choose models and prices there, and the file is written.
    It asks nothing if standard input is not a terminal.

    \b
    Exit codes:
      0    paired
      1    not paired: unreachable, refused, or the code has expired
      2    wrong options, the file exists, or the key is not usable
      130  Ctrl-C
    """
    configure_logging("warning", "text", sys.stderr, ())
    path = settings_path(config_path, os.environ)
    if not force:
        refuse_existing(path)
    try:
        marketplace = marketplace_at(coordinator_url, allow_insecure=allow_insecure)
    except ValueError as error:
        raise SetupError(f"--coordinator-url: {error}") from error
    default_key = default_key_path(os.environ, is_usepod=True)
    shown_key_path = checked_key_path(key_path) or str(default_key)
    expanded_key_path = expand(shown_key_path, os.environ)
    key = own_key(expanded_key_path, rust_form=True)  # so that the operator can go back
    make_folder(path)  # before the code is used up
    asks = can_ask(yes=yes)
    try:
        servers = _find(ports or WELL_KNOWN_PORTS, asks=asks)
        activation = _pair(marketplace, key.public_key_text, servers, asks=asks)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nNot paired, and no settings were written.", err=True, nl=False)
        raise KeyboardInterrupt from None
    answers = Answers(
        marketplace.connect_url,
        tuple(servers),
        Prices(DEFAULT_PRICE, {one.model_id: one.price for one in activation.models if one.price}),
        allow_insecure=allow_insecure,
        key_path=shown_key_path,
        dialect=USEPOD,
        max_concurrent=_max_concurrent(activation),
        command="setup",
    )
    write_settings(path, answers, force=force)
    _report(path, expanded_key_path, key, activation, servers)


def _report(
    path: Path,
    key_path: Path,
    key: Identity,
    activation: Activation,
    servers: Sequence[OfferedServer],
) -> None:
    """Keep the provider id; print the result and the next commands."""
    click.echo("Paired.\n")
    click.echo(f"settings     {path.absolute()} ({counted(len(servers), 'server')})")
    click.echo(f"public key   {key.public_key_text}")
    click.echo(f"key file     {key_path}")
    _store(key_path, activation.provider_id)
    _print_models(activation, servers)
    print_missing_keys(servers, os.environ)
    click.echo("\nNext:")
    option = config_argument(path, os.environ)
    if not servers:
        click.echo(f"  add a [[backends]] table for each of your servers to {path}")
    click.echo(f"  provider-agent check{option}")
    click.echo(f"  provider-agent run{option}")


def _find(ports: Sequence[int], *, asks: bool) -> list[OfferedServer]:
    """Search this machine; without a server, ask whether to search again."""
    while not (servers := search_servers(ports, os.environ)):
        text = f"no inference server answers on {ports_text(ports)} of this machine"
        if not asks:
            click.echo(f"{text}; add [[backends]] to the file later", err=True)
            break
        click.echo(f"{text}; start one, so that the page can show its models", err=True)
        if not click.confirm("Search again?", default=True, err=True):
            break
    return servers


def _pair(
    marketplace: Marketplace, public_key: str, servers: Sequence[OfferedServer], *, asks: bool
) -> Activation:
    """Show a code and wait until the operator has entered it; on a terminal, offer a new one.

    Raises:
        PairingError: there is no pairing.
    """
    backends = [
        DetectedBackend(one.server.kind, one.server.url, one.models)
        for one in servers
        if one.models
    ]
    while (activation := run_async(_try_code(marketplace, public_key, backends))) is None:
        # Outside of the event loop, which would swallow Ctrl-C.
        if not asks or not click.confirm(
            "The code has expired. Get a new one?", default=True, err=True
        ):
            raise PairingError("the code has expired; run `provider-agent setup` for a new one")
    return activation


async def _try_code(
    marketplace: Marketplace, public_key: str, backends: Sequence[DetectedBackend]
) -> Activation | None:
    """Get a code, show it, and wait; return None if it has expired."""
    client, countdown = PairingClient(marketplace.api_url), Countdown()
    clock = WaitingClock(time.monotonic, asyncio.sleep)
    try:
        code = await client.issue(public_key)
        show_code(code.text, marketplace.page_url, code.valid_s)
        return await wait_for_activation(client, code, backends, clock, countdown.show)
    except PairingFailed as failed:
        countdown.clear()
        advice = "check --coordinator-url; without pairing, use `provider-agent init`"
        if failed.is_temporary:
            advice = (
                "check --coordinator-url, the network and the proxy (HTTPS_PROXY), and try again"
            )
        raise PairingError(f"{marketplace.api_url}: {visible(str(failed))}; {advice}") from failed
    finally:
        countdown.clear()
        await client.close()


def _max_concurrent(activation: Activation) -> int:
    if not activation.models:
        return DEFAULT_MAX_CONCURRENT
    return min(activation.models[0].max_concurrent, MAX_CONCURRENT)


def _store(key_path: Path, provider_id: str) -> None:
    """Keep the provider id in the key file. Without it, the agent receives it when it connects."""
    if not provider_id:
        return
    click.echo(f"provider id  {provider_id}")
    try:
        store_provider_id(key_path, provider_id)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        click.echo(f"warning: {key_path}: the provider id is not stored: {reason}", err=True)


def _print_models(activation: Activation, servers: Sequence[OfferedServer]) -> None:
    """Print the activated models with their prices, and what holds for the others."""
    default = f"{_price_text(DEFAULT_PRICE)}, the default"
    for one in activation.models[:MAX_NAMED_MODELS]:
        price = default if one.price is None else _price_text(one.price)
        click.echo(f"activated    {one.model_id}: {price}")
    if (more := len(activation.models) - MAX_NAMED_MODELS) > 0:
        click.echo(f"             and {more} more")
    activated = {one.model_id for one in activation.models}
    others = {model for offered in servers for model in offered.models} - activated
    if not activated:
        click.echo("\nNo model was activated on the page.")
    if others:
        what = f"{counted(len(others), 'model')} that {'was' if len(others) == 1 else 'were'}"
        click.echo(f"\nAlso offered: {what} not activated, at {_price_text(DEFAULT_PRICE)}.")
        click.echo("To offer only some models, set `models` in [[backends]].")


def _price_text(price: Price) -> str:
    amounts = f"{dollars(price.input_per_1m)} in, {dollars(price.output_per_1m)} out"
    return f"{amounts} per million tokens"
