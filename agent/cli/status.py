"""`provider-agent status`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Never

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from provider_agent.agent.cli.settings import run_async, with_local_config
from provider_agent.agent.cli.status_client import (
    AgentState,
    NoAgent,
    WantedAgent,
    fetch_state,
)
from provider_agent.agent.cli.status_text import status_parts
from provider_agent.agent.cli.terminal import console, print_json, visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.telemetry.status import StatusSnapshot, readiness

WATCH_S: Final = 2.0
"""Seconds between two states of `--watch`."""


@click.command(short_help="Print the state of the running agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--watch",
    is_flag=True,
    help="Show the state every two seconds until Ctrl-C, one line of JSON each with --json.",
)
@with_local_config
def status(loaded: LoadedConfig, as_json: bool, watch: bool) -> None:
    """Print the state of the running agent: link, backends, jobs and earnings.

    The speed of a running job is measured; servers report tokens only at the end of a response, so
    tokens per second of a running job are estimated from the bytes per token of earlier ones.

    It shows the coordinator's notices, why offered models receive no jobs, and why the agent
    refused jobs.

    Exits with 0 if the agent can accept jobs, otherwise with 1. Without --json it also prints the
    reasons. With --watch it exits with 130 after Ctrl-C.
    """
    address = loaded.config.observability.prometheus_addr
    wanted = WantedAgent.of(loaded)
    try:
        found = run_async(fetch_state(address, wanted))
    except NoAgent as error:
        raise click.ClickException(str(error)) from error
    if found.note:
        click.echo(found.note, err=True)
    if watch:
        run_async(_watch(lambda: fetch_state(address, wanted), as_json=as_json))
    state = found.snapshot
    if as_json:
        print_json(state)
    else:
        _print_status(state, console())
    sys.exit(1 if readiness(state) else 0)


def _print_status(state: StatusSnapshot, out: Console) -> None:
    for part in status_parts(state):
        if isinstance(part, str):
            out.print(visible(part), soft_wrap=True)
        else:
            out.print(part)


async def _watch(fetch: Callable[[], Awaitable[AgentState]], *, as_json: bool) -> Never:
    out = console()
    note = ""

    async def fetch_snapshot() -> StatusSnapshot:
        nonlocal note
        found = await fetch()
        note = found.note
        return found.snapshot

    if as_json:
        await watch_states(fetch_snapshot, _print_json_line)
    if not out.is_terminal:
        await watch_states(fetch_snapshot, lambda state: _print_block(state, out))
    with Live(console=out, screen=True, auto_refresh=False) as live:
        await watch_states(
            fetch_snapshot, lambda state: live.update(_screen(state, note), refresh=True)
        )


async def watch_states(
    fetch: Callable[[], Awaitable[StatusSnapshot]], show: Callable[[StatusSnapshot | NoAgent], None]
) -> Never:
    """Show the state every `WATCH_S` seconds until cancelled, also while no agent runs.

    Args:
        fetch: returns the state, or raises `NoAgent`.
        show: shows the state, or why there is none.
    """
    while True:
        try:
            show(await fetch())
        except NoAgent as error:
            show(error)
        await asyncio.sleep(WATCH_S)


def _print_json_line(state: StatusSnapshot | NoAgent) -> None:
    found = {"error": str(state)} if isinstance(state, NoAgent) else state
    click.echo(msgspec.json.encode(found).decode())


def _print_block(state: StatusSnapshot | NoAgent, out: Console) -> None:
    if isinstance(state, NoAgent):
        out.print(visible(str(state)), soft_wrap=True)
    else:
        _print_status(state, out)
    out.print()


def _screen(state: StatusSnapshot | NoAgent, note: str) -> Group:
    parts = [str(state)] if isinstance(state, NoAgent) else [note, *status_parts(state)]
    shown = [Text(visible(part)) if isinstance(part, str) else part for part in parts if part]
    return Group(*shown, Text("Ctrl-C ends"))
