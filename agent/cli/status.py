"""`provider-agent status`."""

import sys

import click
import msgspec
from rich.console import Console
from rich.table import Table

from agent.cli.settings import run_async, with_config
from agent.cli.status_client import NoAgent, fetch_status_page
from agent.config import LoadedConfig
from agent.telemetry.status import StatusSnapshot, readiness


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_config
def status(loaded: LoadedConfig, as_json: bool) -> None:
    """Show how the running agent does: link, jobs, backends, last job, last rejection."""
    address = loaded.config.observability.prometheus_addr
    try:
        _, body = run_async(fetch_status_page(address, "/status"))
    except NoAgent as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(body).decode())
        return
    try:
        state = msgspec.json.decode(body, type=StatusSnapshot)
    except ValueError as error:
        raise click.ClickException(f"what answers on {address} is not an agent") from error
    _show(state, Console(soft_wrap=True))
    sys.exit(1 if readiness(state) else 0)


def _show(state: StatusSnapshot, console: Console) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("version", state.version)
    facts.add_row("up", _age(state.uptime_s))
    facts.add_row("coordinator", state.coordinator_url)
    facts.add_row("link", state.link)
    facts.add_row("last welcome", _ago(state.last_welcome_age_s))
    facts.add_row("last rejection", state.last_rejection or "none")
    facts.add_row("last job offered", _ago(state.last_job_age_s))
    facts.add_row("jobs", f"{state.in_flight} of {state.capacity}")
    console.print(facts)
    table = Table("backend", "healthy", "models", "what is wrong")
    for backend in state.backends:
        healthy = "yes" if backend.healthy else "no"
        table.add_row(backend.id, healthy, str(backend.models), backend.last_error or "")
    console.print(table)
    reasons = readiness(state)
    for reason in reasons:
        console.print(f"not ready: {reason}")
    if not reasons:
        console.print("ready")


def _age(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_age(seconds)} ago"
