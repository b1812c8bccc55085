"""`provider-agent status`."""

import math
import sys

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from provider_agent.agent.cli.settings import run_async, with_local_config
from provider_agent.agent.cli.status_client import NoAgent, fetch_snapshot
from provider_agent.agent.cli.terminal import console, visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.telemetry.status import StatusSnapshot, readiness


@click.command(short_help="Print the state of the running agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_local_config
def status(loaded: LoadedConfig, as_json: bool) -> None:
    """Print the state of the running agent: link, jobs and backends.

    It shows the coordinator's notices, and why offered models receive no jobs.

    Exits with 0 if the agent can accept jobs, otherwise with 1. Without --json it also prints the
    reasons.
    """
    address = loaded.config.observability.prometheus_addr
    try:
        state = run_async(fetch_snapshot(address))
    except NoAgent as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(state)).decode())
    else:
        _print_status(state, console())
    sys.exit(1 if readiness(state) else 0)


def _print_status(state: StatusSnapshot, out: Console) -> None:
    facts = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    facts.add_row("version", state.version)
    facts.add_row("up", _duration(state.uptime_s))
    facts.add_row("coordinator", state.coordinator_url)
    facts.add_row("link", state.link)
    facts.add_row("last welcome", _ago(state.last_welcome_age_s))
    if state.last_disconnect:  # absent while connected, also if an earlier link was lost
        facts.add_row("last disconnect", visible(state.last_disconnect))
    facts.add_row("offered models", _routing(state))
    facts.add_row("last job", _ago(state.last_job_age_s))
    facts.add_row("jobs", f"{state.in_flight} of {state.capacity}")
    if state.token_limit_wait_s:
        wait = _duration(math.ceil(state.token_limit_wait_s))
        facts.add_row("token limit", f"used up; jobs are refused for {wait}")
    out.print(facts)
    table = Table(Column("backend", overflow="fold"), "healthy", "models", "problem")
    for backend in state.backends:
        healthy = "yes" if backend.healthy else "no"
        table.add_row(backend.id, healthy, str(backend.models), visible(backend.last_error or ""))
    out.print(table)
    if state.routing is not None:
        for one in state.routing.unroutable:
            _print_line(out, f"no jobs for {one.model_id}: {one.message} ({one.code})")
    for notice in state.notices:
        model = "" if notice.model_id is None else f" about {notice.model_id}"
        heading = f"{notice.severity} from the coordinator {_ago(notice.age_s)}{model}"
        _print_line(out, f"{heading}: {notice.message} ({notice.code})")
    reasons = readiness(state)
    for reason in reasons:
        _print_line(out, f"not ready: {reason}")
    if not reasons:
        out.print("ready")


def _print_line(out: Console, text: str) -> None:
    out.print(visible(text), soft_wrap=True)


def _routing(state: StatusSnapshot) -> str:
    if state.draining:
        return "draining"
    if state.coordinator_draining:
        return "the coordinator is stopping; it sends no new jobs"
    if not any(backend.healthy and backend.models for backend in state.backends):
        return "none offered"
    if state.routing is None:
        return "not reported by the coordinator yet"
    count = state.routing.unroutable_count
    return f"{count} cannot receive jobs" if count else "all can receive jobs"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_duration(seconds)} ago"
