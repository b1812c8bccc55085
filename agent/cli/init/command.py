"""`provider-agent init`: the command."""

import os
import sys
from pathlib import Path
from typing import Final

import click
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.agent.backends.local_servers import WELL_KNOWN_PORTS
from provider_agent.agent.cli.found_servers import ports_text
from provider_agent.agent.cli.init.document import Answers, OfferedServer, render
from provider_agent.agent.cli.init.options import config_file_option, force_option, ports_option
from provider_agent.agent.cli.init.prices import InvalidPrice, Prices, combine
from provider_agent.agent.cli.init.prompts import (
    ask_coordinator,
    ask_enrollment_code,
    ask_prices,
    choose_servers,
)
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
from provider_agent.agent.cli.settings import SetupError
from provider_agent.agent.cli.terminal import counted
from provider_agent.agent.config.addresses import coordinator_url
from provider_agent.agent.config.dialect import is_usepod_address
from provider_agent.agent.config.files import config_home, default_key_path, expand
from provider_agent.agent.config.flags import variable_of
from provider_agent.agent.telemetry.logs import configure_logging

CODE_VARIABLE: Final = variable_of("coordinator.enrollment_code")
URL_VARIABLE: Final = variable_of("coordinator.url")

MAX_CODE_CHARS: Final = 512
"""The limit of `coordinator.enrollment_code`."""


class _Options(Struct, frozen=True):
    """The options of the command line; see their help texts.

    Attributes:
        asks: whether to ask for what the options leave open.
    """

    coordinator_url: str
    allow_insecure: bool
    key_path: str
    prices: Prices
    ports: tuple[int, ...]
    asks: bool


@click.command(short_help="Find your servers and write agent.toml.")
@config_file_option
@click.option("--coordinator-url", envvar=URL_VARIABLE, default="", help="[coordinator] url.")
@click.option("--allow-insecure", is_flag=True, help="Allow ws:// to other machines.")
@click.option(
    "--input-price",
    "input_prices",
    multiple=True,
    metavar="[MODEL=]PRICE",
    help='Price per million input tokens, of all models or of one: "0.50 USD". Repeatable.',
)
@click.option(
    "--output-price",
    "output_prices",
    multiple=True,
    metavar="[MODEL=]PRICE",
    help="Price per million output tokens, of all models or of one. Repeatable.",
)
@click.option(
    "--key-path",
    envvar=variable_of("identity.key_path"),
    default="",
    help="[identity] key_path. [default: identity.key in ~/.config/provider-agent]",
)
@ports_option
@click.option("-y", "--yes", is_flag=True, help="Ask nothing; offer every server that is found.")
@force_option
@click.option("--dry-run", is_flag=True, help="Print the file, and write nothing.")
def init(
    config_path: Path | None,
    coordinator_url: str,
    allow_insecure: bool,
    input_prices: tuple[str, ...],
    output_prices: tuple[str, ...],
    key_path: str,
    ports: tuple[int, ...],
    yes: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Find the inference servers of this machine, and write agent.toml and the key.

    It searches the well-known ports of vLLM, llama.cpp, LM Studio, Ollama and SGLang, and asks for
    the rest. It asks nothing if standard input is not a terminal.

    The enrollment code is a secret and has no option: a script sets the variable
    PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE.
    """
    configure_logging("warning", "text", sys.stderr, ())
    path = settings_path(config_path, os.environ)
    if not (force or dry_run):
        refuse_existing(path)
    asks = can_ask(yes=yes)
    try:
        prices = combine(input_prices, output_prices)
    except InvalidPrice as error:
        raise SetupError(str(error)) from error
    options = _Options(
        coordinator_url, allow_insecure, key_path, prices, ports or WELL_KNOWN_PORTS, asks
    )
    try:
        answers = _with_existing_key(_answers(options))
    except click.Abort:
        click.echo("\nNothing was written.", err=True, nl=False)
        raise KeyboardInterrupt from None
    if dry_run:
        click.echo(render(answers, show_code=False), nl=False)
        return
    _write(path, answers, force=force)


def _answers(options: _Options) -> Answers:
    """Return what the file will contain, from the options and from answers to questions.

    Raises:
        SetupError: an option or a variable is not valid, or there is no address and no terminal.
    """
    url = _checked_url(options)
    key_path = checked_key_path(options.key_path)
    code = _checked_code(os.environ.get(CODE_VARIABLE, ""))
    servers = _find(options.ports)
    if not options.asks:
        return Answers(url, tuple(servers), options.prices, code, options.allow_insecure, key_path)
    servers = choose_servers(servers)
    url = url or ask_coordinator(allow_insecure=options.allow_insecure)
    code = code or _checked_code(ask_enrollment_code())
    prices = options.prices
    if prices == Prices():
        models = [model for offered in servers for model in offered.models]
        prices = ask_prices(list(dict.fromkeys(models)))
    return Answers(url, tuple(servers), prices, code, options.allow_insecure, key_path)


def _checked_url(options: _Options) -> str:
    if not options.coordinator_url:
        if options.asks:
            return ""
        raise SetupError(
            f"the coordinator's address is missing; add --coordinator-url, or set {URL_VARIABLE}"
        )
    try:
        return coordinator_url(options.coordinator_url, allow_insecure=options.allow_insecure)
    except ValueError as error:
        raise SetupError(f"--coordinator-url: {error}") from error


def _with_existing_key(answers: Answers) -> Answers:
    """Name the key of the Rust agent in the file if it is the one that `run` would use."""
    is_usepod = is_usepod_address(answers.coordinator_url)
    default = default_key_path(os.environ, is_usepod=is_usepod)
    if answers.key_path or default == config_home(os.environ) / "identity.key":
        return answers
    return replace(answers, key_path=str(default))


def _checked_code(code: str) -> str:
    code = code.strip()
    if not code.isprintable() or len(code) > MAX_CODE_CHARS:
        problem = f"the enrollment code is not one line of at most {MAX_CODE_CHARS} characters"
        raise SetupError(f"{problem}; correct {CODE_VARIABLE}, or type it again")
    return code


def _find(ports: tuple[int, ...]) -> list[OfferedServer]:
    """Search this machine, and print what was found."""
    servers = search_servers(ports, os.environ)
    if not servers:
        click.echo(
            f"no inference server answers on {ports_text(ports)} of this machine; start one and "
            "run `provider-agent init --force` again, or add [[backends]] to the file",
            err=True,
        )
    return servers


def _write(path: Path, answers: Answers, *, force: bool) -> None:
    """Write key and file, and print the public key and the next command."""
    default = config_home(os.environ) / "identity.key"
    key_path = expand(answers.key_path, os.environ) if answers.key_path else default
    key = own_key(key_path)
    make_folder(path)
    write_settings(path, answers, force=force)
    click.echo(f"settings     {path.absolute()} ({counted(len(answers.servers), 'server')})")
    click.echo(f"public key   {key.public_key_text}")
    click.echo(f"fingerprint  {key.fingerprint}")
    click.echo(f"key file     {key_path}")
    print_missing_keys(answers.servers, os.environ)
    if answers.leaves_price_open:
        click.echo(
            "\nModels without a price may receive no jobs: set [pricing] in the file, or add "
            "--input-price and --output-price."
        )
    click.echo("\nIf the coordinator has an allow-list, give its operator the public key. Next:")
    option = config_argument(path, os.environ)
    if answers.servers:
        click.echo(f"  provider-agent check{option}")
    else:
        click.echo(f"  provider-agent init --force{option}   # when an inference server runs")
