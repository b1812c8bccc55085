"""`provider-agent models`: what would be offered now."""

import os
import sys

import click
import msgspec
from rich.table import Column, Table

from agent.backends import make_backends
from agent.capabilities import model_offers
from agent.cli.settings import NO_BACKEND, run_async, with_local_config
from agent.cli.terminal import console, visible
from agent.config import LoadedConfig
from agent.discovery import Discovery
from protocol.frames import ModelOffer


class Problem(msgspec.Struct, frozen=True):
    """A backend of which nothing is offered.

    Attributes:
        backend: its id; "configuration" when there is none at all.
        reason: why, and what to do.
    """

    backend: str
    reason: str


@click.command(short_help="List the models that would be offered now.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_local_config
def models(loaded: LoadedConfig, as_json: bool) -> None:
    """List the models that the agent would offer now, and the backends that offer none.

    Exits with 0 when there is at least one model.
    """
    offers, problems = run_async(_find(loaded))
    if as_json:
        shown = {
            "models": [msgspec.structs.asdict(offer) for offer in offers],
            "problems": [msgspec.structs.asdict(problem) for problem in problems],
        }
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
    else:
        _show(offers, problems)
    sys.exit(0 if offers else 1)


async def _find(loaded: LoadedConfig) -> tuple[list[ModelOffer], list[Problem]]:
    backends = make_backends(loaded.config.backends, os.environ)
    discovery = Discovery(backends.usable, backends.markups, lambda: None)
    try:
        await discovery.check_all()
    finally:
        for backend in backends.usable:
            await backend.close()
    problems = [Problem(skipped.backend_id, skipped.reason) for skipped in backends.skipped]
    if not loaded.config.backends:
        problems.append(Problem("configuration", NO_BACKEND))
    for state in discovery.states:
        if not state.health.reachable:
            problems.append(Problem(state.backend.id, state.health.last_error or "not healthy"))
        elif not state.models:
            problems.append(Problem(state.backend.id, "healthy, but serves no model to offer"))
    return model_offers(discovery.serving(), loaded.config), problems


def _show(offers: list[ModelOffer], problems: list[Problem]) -> None:
    out = console()
    table = Table(Column("model", overflow="fold"))
    for title in ("backend", "formats", "context", "jobs", "$/M in", "$/M out"):
        table.add_column(title)
    for offer in offers:
        table.add_row(
            visible(offer.model_id),
            offer.backend_kind if offer.native else f"{offer.backend_kind} (remote)",
            ", ".join(offer.formats),
            "unknown" if offer.context_window is None else f"{offer.context_window:,}",
            str(offer.max_concurrent),
            _dollars(offer.input_price_per_1m),
            _dollars(offer.output_price_per_1m),
        )
    if offers:
        out.print(table)
    else:
        out.print("No model to offer.")
    for problem in problems:
        out.print(f"{problem.backend}: {visible(problem.reason)}", soft_wrap=True)


def _dollars(price: int | None) -> str:
    return "-" if price is None else f"{price / 1_000_000:.2f}"
