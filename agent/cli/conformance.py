"""`provider-agent conformance`: tests any coordinator or agent against docs/protocol.md."""

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import click
from websockets.exceptions import InvalidHandshake, InvalidURI

from provider_agent.agent.cli.settings import run_async
from provider_agent.agent.cli.terminal import console, visible
from provider_agent.agent.config.addresses import backend_url, coordinator_url, shown_url
from provider_agent.conformance.agent_run import case_ids as agent_case_ids
from provider_agent.conformance.agent_run import run_against_agent
from provider_agent.conformance.agent_under_test import AgentListener
from provider_agent.conformance.case import NotHeld
from provider_agent.conformance.coordinator_run import case_ids as coordinator_case_ids
from provider_agent.conformance.coordinator_run import run_against_coordinator
from provider_agent.conformance.coordinator_under_test import CoordinatorTarget
from provider_agent.conformance.failed_connection import describe
from provider_agent.conformance.peer import ANSWER_S
from provider_agent.conformance.report import Report, printable, table, to_json, to_junit
from provider_agent.conformance.usepod_cases import DIALECT as USEPOD
from provider_agent.protocol.limits import SUBPROTOCOL

EXIT_NOT_HELD: Final = 1
EXIT_NOT_RUN: Final = 2

CommandT = TypeVar("CommandT", bound=Callable[..., object])


def _report_options(
    rules: Callable[[str], Sequence[str]],
) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds the shared options to a subcommand.

    Args:
        rules: returns the rules that the subcommand tests with a dialect.
    """

    def print_rules(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted:
            click.echo("\n".join(rules(context.params["dialect"])))
            context.exit()

    options = (
        click.option(
            "--dialect",
            type=click.Choice([SUBPROTOCOL, USEPOD]),
            default=SUBPROTOCOL,
            show_default=True,
            is_eager=True,  # --list-rules needs it
            help="The protocol to test.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--junit",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Also write JUnit XML to this file.",
        ),
        click.option(
            "--timeout",
            "answer_s",
            default=ANSWER_S,
            show_default=True,
            type=click.FloatRange(min=0.1),
            metavar="SECONDS",
            help="How long an answer may take. Raise it for a distant or busy machine.",
        ),
        click.option("--only", multiple=True, metavar="RULE", help="Run this rule; repeatable."),
        click.option(
            "--list-rules",
            is_flag=True,
            expose_value=False,
            callback=print_rules,
            help="Print the names of all rules, and exit.",
        ),
    )

    def add(command: CommandT) -> CommandT:
        for option in options:
            command = option(command)
        return command

    return add


@click.group(short_help="Test any coordinator or agent against the protocol.")
def conformance() -> None:
    """Test an implementation of the protocol, in any language.

    Prints a table: rule, whether it held, and what was observed. Exits with 0 if no MUST was
    broken, 1 if one was, and 2 if the tests could not run or ended early. docs/conformance.md
    explains the rules.
    """


@conformance.command(short_help="Play agents against a coordinator.")
@click.argument("url")
@click.option(
    "--submit-url",
    default="",
    metavar="URL",
    help="The coordinator's OpenAI-compatible API, for starting jobs. Without this URL, most rules "
    "are not tested.",
)
@click.option(
    "--api-key", default="", envvar="CONFORMANCE_API_KEY", help="Client key for --submit-url."
)
@click.option("--enrollment-code", default="", envvar="CONFORMANCE_ENROLLMENT_CODE")
@_report_options(coordinator_case_ids)
def coordinator(
    url: str,
    submit_url: str,
    api_key: str,
    enrollment_code: str,
    dialect: str,
    answer_s: float,
    as_json: bool,
    junit: Path | None,
    only: tuple[str, ...],
) -> None:
    """Play scripted agents against the coordinator at URL (ws:// or wss://), for about 35 seconds.

    Do not use a coordinator in production: the tests connect as providers, offer models with names
    that start with `conformance-`, and break the protocol on purpose.
    """
    _check_names(only, coordinator_case_ids(dialect))
    url, submit_url = _usable_urls(url, submit_url)
    _check_junit(junit)
    target = CoordinatorTarget(url, submit_url, api_key, enrollment_code, answer_s, dialect)
    try:
        report = run_async(run_against_coordinator(target, only))
    except (OSError, InvalidHandshake, InvalidURI) as error:  # InvalidURI: in a redirect
        _exit_not_run(f"{shown_url(url)} is not the address of a coordinator: {describe(error)}")
    except NotHeld as error:
        _exit_not_run(f"the coordinator does not admit the test agent: {error}")
    _finish(report, as_json=as_json, junit=junit)


@conformance.command(short_help="Play a coordinator for an agent that dials in.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="Port to listen on. Default: a free one.",
)
@click.option(
    "--authority",
    "authorities",
    multiple=True,
    metavar="HOST:PORT",
    help="Another address that the agent dials, such as a tunnel's; repeatable.",
)
@click.option(
    "--wait",
    "wait_s",
    default=300.0,
    show_default=True,
    help="How many seconds to wait for the agent.",
)
@_report_options(agent_case_ids)
def agent(
    host: str,
    port: int,
    authorities: tuple[str, ...],
    wait_s: float,
    dialect: str,
    answer_s: float,
    as_json: bool,
    junit: Path | None,
    only: tuple[str, ...],
) -> None:
    """Listen, print the address, and play a coordinator for the agent that dials it.

    Configure the agent with the printed address and the backend `echo`, or any model whose answers
    are longer than 64 KiB; shorter ones leave some rules untested. With --dialect usepod, the model
    needs two prices. The tests take about a minute, mostly the agent's waits before it reconnects.
    """
    _check_names(only, agent_case_ids(dialect))
    _check_junit(junit)

    async def run() -> Report:
        async with AgentListener(host, port, authorities, answer_s, dialect) as listener:
            click.echo(f"waiting for an agent at {listener.url}", err=True)
            return await run_against_agent(listener, only, wait_s=wait_s)

    try:
        report = run_async(run())
    except OSError as error:
        _exit_not_run(f"cannot listen on {host}:{port}: {describe(error)}")
    except NotHeld as error:
        _exit_not_run(f"{error}")
    _finish(report, as_json=as_json, junit=junit)


def _check_names(only: Sequence[str], known: Sequence[str]) -> None:
    for name in only:
        if name not in known:
            close = " or ".join(repr(match) for match in get_close_matches(name, known))
            question = f"; did you mean {close}?" if close else "."
            raise click.UsageError(
                f"there is no rule {name!r}{question} --list-rules prints the names."
            )


def _usable_urls(url: str, submit_url: str) -> tuple[str, str]:
    """Return the normalized addresses; if one is not valid, print the reason and exit."""
    try:
        url = coordinator_url(url, allow_insecure=True)
    except ValueError as error:
        _exit_not_run(f"{_shown(url)} is not the address of a coordinator: {error}")
    try:
        submit_url = submit_url and backend_url(submit_url)
    except ValueError as error:
        _exit_not_run(f"--submit-url {_shown(submit_url)} is not valid: {error}")
    return url, submit_url


def _shown(url: str) -> str:
    """Return the address, which may not be valid, without its secrets."""
    return visible(shown_url(url.rpartition("@")[2]))


def _check_junit(path: Path | None) -> None:
    """If the JUnit file cannot be written, print the reason and exit, before the tests run."""
    if path is None:
        return
    if not path.parent.is_dir():
        _exit_not_run(f"cannot write --junit {path}: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        _exit_not_run(f"cannot write --junit {path}: permission denied")


def _exit_not_run(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"conformance: {problem}", err=True)
    sys.exit(EXIT_NOT_RUN)


def _finish(report: Report, *, as_json: bool, junit: Path | None) -> None:
    """Print the report, write the JUnit file if requested, and exit."""
    if as_json:
        click.echo(to_json(report))
    else:
        output = console()
        output.print(table(report.results))
        output.print(report.summary)
    problems: list[str] = []
    if report.early_end_reason:
        problems.append(f"the run ended early: {printable(report.early_end_reason)}")
    if junit is not None:
        try:
            junit.write_bytes(to_junit(report))
        except OSError as error:
            problems.append(f"cannot write --junit {junit}: {describe(error)}")
    if problems:
        _exit_not_run(*problems)
    sys.exit(0 if report.conforms else EXIT_NOT_HELD)
