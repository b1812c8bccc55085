"""`provider-agent check`: checks everything that `run` needs, with advice for each failure."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import click

from provider_agent.adapters.registry import KnownKinds
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.offer_warnings import offer_warnings
from provider_agent.agent.cli.check.backends import (
    check_backend_state,
    missing_offer,
    skipped_backend,
)
from provider_agent.agent.cli.check.coordinator import check_coordinators
from provider_agent.agent.cli.check.findings import Finding, Outcome, all_passed, failure, show
from provider_agent.agent.cli.check.hours import check_hours
from provider_agent.agent.cli.check.ledger import check_ledger
from provider_agent.agent.cli.check.servers import duplicate_servers, other_products
from provider_agent.agent.cli.found_servers import use_found_servers
from provider_agent.agent.cli.settings import (
    EXIT_CONFIG,
    INIT_ADVICE,
    NO_BACKEND,
    NO_COORDINATOR,
    config_option,
    run_async,
    start_logging,
)
from provider_agent.agent.config import Config, ConfigError, LoadedConfig, load_config
from provider_agent.agent.config.dialect import USEPOD, dialect_of
from provider_agent.agent.config.errors import SeveralConfigErrors
from provider_agent.agent.config.files import find_file
from provider_agent.agent.config.flags import variable_of
from provider_agent.agent.identity.key import Identity, IdentityError, load

ENVIRONMENT: Final = "environment"
"""The target of the finding about the configuration if there is no file."""

_URL_VARIABLE: Final = variable_of("coordinator.url")

_NO_ADDRESS: Final = Finding(
    "coordinator",
    "[coordinator] url",
    Outcome.FAILED,
    "missing",
    f"{INIT_ADVICE}; or set {_URL_VARIABLE}, or add --coordinator-url",
)


@click.command(short_help="Test configuration, coordinator and backends.")
@config_option
@click.option("--coordinator-url", help="Overrides [coordinator] url.")
@click.option("--allow-insecure", is_flag=True, default=None, help="Allow ws:// to other machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--completions/--no-completions", default=True, help="Request 8 tokens from each server."
)
def check(
    config_path: Path | None,
    coordinator_url: str | None,
    allow_insecure: bool | None,
    as_json: bool,
    completions: bool,
) -> None:
    """Test configuration, identity, coordinator and every backend.

    Without any configuration, it searches this machine for inference servers.

    Exits with 0 if all checks pass, 2 if the configuration is missing or not usable, and 1
    otherwise. It does not disturb a running agent. Completions cost a few tokens at paid services.
    """
    # Without a file and an address of a coordinator, everything else is checked.
    dials = (
        coordinator_url is not None
        or find_file(config_path, os.environ) is not None
        or bool(os.environ.get(_URL_VARIABLE))
    )
    overrides = {
        "coordinator.url": coordinator_url if dials else NO_COORDINATOR,
        "coordinator.allow_insecure": allow_insecure,
    }
    try:
        loaded = load_config(config_path, os.environ, overrides, KnownKinds())
        start_logging(loaded, "error")
        findings = run_async(run_checks(loaded, completions, dials=dials))
    except ConfigError as error:
        advice = "correct it; docs/configuration.md explains every key"
        target = str(find_file(config_path, os.environ) or ENVIRONMENT)
        errors = error.errors if isinstance(error, SeveralConfigErrors) else (error,)
        show([failure("configuration", target, one, advice) for one in errors], as_json=as_json)
        sys.exit(EXIT_CONFIG)
    show(findings, as_json=as_json)
    sys.exit(0 if all_passed(findings) else 1 if dials else EXIT_CONFIG)


async def run_checks(loaded: LoadedConfig, completions: bool, *, dials: bool) -> list[Finding]:
    """Return all findings.

    Args:
        loaded: the settings.
        completions: whether to request a few tokens from each server.
        dials: whether the settings name a coordinator.
    """
    loaded, search = await use_found_servers(loaded)
    config = loaded.config
    findings = [_configuration(loaded, search)]
    identity = _identity(config, findings)
    findings += await check_coordinators(config, identity) if dials else [_NO_ADDRESS]
    findings += check_ledger(config)
    return findings + await _check_backends(config, completions)


def _configuration(loaded: LoadedConfig, search: str) -> Finding:
    """Return the finding about the settings.

    Args:
        loaded: the settings, with the servers that a search has found.
        search: the result of the search; "" if there was none.
    """
    target = str(loaded.path or ENVIRONMENT)
    problems, outcome, advice = [NO_BACKEND.problem], Outcome.FAILED, NO_BACKEND.advice
    if search:
        problems, advice = [search], INIT_ADVICE
    elif loaded.config.backends:
        problems, advice = [f"backends: {len(loaded.config.backends)}"], ""
        outcome = Outcome.WARNING if loaded.warnings else Outcome.OK
    details = "; ".join([*problems, *loaded.warnings])
    return Finding("configuration", target, outcome, details, advice)


def _identity(config: Config, findings: list[Finding]) -> Identity | str:
    """Add the finding about the key; return the key, or why there is none."""
    path = config.identity.key_path
    try:
        identity = load(path)
    except IdentityError as error:
        findings.append(failure("identity", str(path), error, "restore it from a backup"))
        if isinstance(error.__cause__, FileNotFoundError):
            return "there is no key"
        return f"the key is not usable ({findings[-1].details})"
    findings.append(Finding("identity", str(path), Outcome.OK, identity.fingerprint))
    return identity


async def _check_backends(config: Config, completions: bool) -> list[Finding]:
    backends = make_backends(config.backends, os.environ)
    findings = [*check_hours(config, backends), *duplicate_servers(config.backends)]
    discovery = Discovery(backends, lambda: None, pricing=config.pricing)
    try:
        others, _ = await asyncio.gather(other_products(config.backends), discovery.check_all())
        served = discovery.served_models()
        findings += [
            Finding("offer", warning.target, Outcome.WARNING, warning.problem, warning.what_to_do)
            for warning in offer_warnings(served, discovery.states, config)
        ]
        is_usepod = dialect_of(config.coordinator, config.coordinator.url) == USEPOD
        findings += missing_offer(served, needs_price=is_usepod)
        for state in discovery.states:
            settings = state.backend.settings
            findings += await check_backend_state(
                state,
                request_completions=completions,
                other=others.get((settings.kind, settings.url)),
            )
    finally:
        for backend in backends.usable:
            await backend.close()
    return findings + [skipped_backend(skipped) for skipped in backends.skipped]
