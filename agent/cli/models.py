"""`provider-agent models`: the models that would be offered now."""

import os
import sys
from typing import Final

import click
import msgspec
from rich.table import Column, Table

from provider_agent.adapters.servers.model_selection import MAX_WITHHELD
from provider_agent.agent.backends.capabilities import model_offers
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.offer_groups import ServedModel, group_by_model
from provider_agent.agent.cli.backend_report import (
    MAX_WITHHELD_PRINTED,
    BackendReport,
    report_of,
    report_of_skipped,
)
from provider_agent.agent.cli.found_servers import use_found_servers
from provider_agent.agent.cli.settings import INIT_ADVICE, NO_BACKEND, run_async, with_local_config
from provider_agent.agent.cli.terminal import console, print_json, visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.config.low_prices import CENT
from provider_agent.protocol.frames import ModelOffer

_NAMED: Final = 8
"""The most models that are named with their common operations."""


class ModelsReport(msgspec.Struct, frozen=True):
    """The output of the command.

    Attributes:
        models: the offers.
        kinds: by model id, the kinds of the backends that run its jobs.
        backends: every configured backend with its models, of the withheld ones up to
            `MAX_WITHHELD`; if none is configured, one entry that says so.
    """

    models: list[ModelOffer]
    kinds: dict[str, str]
    backends: list[BackendReport]


@click.command(short_help="List the models that would be offered now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_local_config
def models(loaded: LoadedConfig, as_json: bool) -> None:
    """List the models that the agent would offer now, and why others are not offered.

    Without any configuration, it searches this machine for inference servers.

    Exits with 0 if at least one model would be offered, otherwise with 1.
    """
    report = run_async(_collect(loaded))
    if as_json:
        print_json(_with_field_names(report))
    else:
        _print_report(report)
    sys.exit(0 if report.models else 1)


async def _collect(loaded: LoadedConfig) -> ModelsReport:
    loaded, note = await use_found_servers(loaded)
    note = f"{note}; {INIT_ADVICE}" if note else ""
    if note and loaded.config.backends:
        click.echo(note, err=True)
    backends = make_backends(loaded.config.backends, os.environ)
    discovery = Discovery(backends, lambda: None, pricing=loaded.config.pricing)
    try:
        await discovery.check_all()
    finally:
        for backend in backends.usable:
            await backend.close()
    withheld: dict[str, dict[str, str]] = {}
    kinds = {}
    for model_id, group in group_by_model(discovery.served_models()).items():
        named = [_kind(one) for one in group.members]
        kinds[model_id] = ", ".join(dict.fromkeys(named))
        for one, reason, advice in group.withheld:
            withheld.setdefault(one.backend.id, {})[model_id] = f"{reason}; {advice}"
    reports = [report_of(state, withheld.get(state.backend.id, {})) for state in discovery.states]
    reports += [report_of_skipped(skipped) for skipped in backends.skipped]
    if not loaded.config.backends:
        reports.append(BackendReport("configuration", problem=note or str(NO_BACKEND)))
    return ModelsReport(model_offers(discovery.served_models()), kinds, reports)


def _kind(one: ServedModel) -> str:
    return one.backend.kind if one.model.native else f"{one.backend.kind} (remote)"


def _with_field_names(report: ModelsReport) -> dict[str, object]:
    """Return the report with field names; an offer itself would be encoded as an array."""
    return {
        "models": [msgspec.structs.asdict(offer) for offer in report.models],
        "backends": report.backends,
    }


def _print_report(report: ModelsReport) -> None:
    out = console()
    table = Table(Column("model", overflow="fold"))
    for title in ("backend", "accepts", "context", "jobs", "$/M in", "$/M out"):
        table.add_column(title)
    for offer in report.models:
        table.add_row(
            visible(offer.model_id),
            report.kinds[offer.model_id],
            visible(_accepted(offer)),
            "unknown" if offer.context_window is None else f"{offer.context_window:,}",
            str(offer.max_concurrent),
            _dollars(offer.input_price_per_1m),
            _dollars(offer.output_price_per_1m),
        )
    if report.models:
        out.print(table)
        for operations, names in _by_operations(report.models).items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            out.print(f"{visible(', '.join(names[:_NAMED]))}{more}: {operations}")
    else:
        out.print("No model to offer.")
    for backend in report.backends:
        out.print(f"{backend.id}: {visible(backend.problem or backend.summary)}", soft_wrap=True)
        withheld = [model for model in backend.models if model.withheld]
        for model in withheld[:MAX_WITHHELD_PRINTED]:
            line = f"  not offered: {model.model_id}: {model.withheld}"
            out.print(visible(line), soft_wrap=True)
        if len(withheld) > MAX_WITHHELD_PRINTED:
            out.print(f"  and others; --json shows up to {MAX_WITHHELD}")


def _by_operations(offers: list[ModelOffer]) -> dict[str, list[str]]:
    """Return the models that support the same operations, by these operations."""
    models: dict[str, list[str]] = {}
    for offer in offers:
        models.setdefault(", ".join(offer.operations), []).append(offer.model_id)
    return models


def _accepted(offer: ModelOffer) -> str:
    """Return what requests may contain; only what every server of the model reports is listed."""
    flags = {"tools": offer.tools, "JSON schema": offer.json_schema, "reasoning": offer.reasoning}
    named = [name for name, accepted in flags.items() if accepted]
    return ", ".join([*(offer.input_kinds or ()), *named]) or "not reported"


def _dollars(price: int | None) -> str:
    if price is None:
        return "-"
    # A price below a cent, probably a mistake, must not look like a free model.
    return f"{price / 1_000_000:.{6 if 0 < price < CENT else 2}f}"
