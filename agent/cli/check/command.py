"""`provider-agent check`: checks everything that `run` needs, with advice for each failure."""

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
from provider_agent.agent.cli.settings import (
    EXIT_CONFIG,
    NO_BACKEND,
    config_option,
    run_async,
    start_logging,
)
from provider_agent.agent.config import Config, ConfigError, LoadedConfig, load_config
from provider_agent.agent.config.files import find_file
from provider_agent.agent.identity.key import Identity, IdentityError, load

ENVIRONMENT: Final = "environment"
"""The target of the finding about the configuration if there is no file."""


@click.command(short_help="Test configuration, coordinator and backends.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--completions/--no-completions", default=True, help="Request 8 tokens from each server."
)
def check(config_path: Path | None, as_json: bool, completions: bool) -> None:
    """Test configuration, identity, coordinator and every backend.

    Exits with 0 if all checks pass, 2 if the configuration is not usable, and 1 otherwise. It does
    not disturb a running agent. Completions cost a few tokens at paid services.
    """
    try:
        loaded = load_config(config_path, os.environ, {}, KnownKinds())
        start_logging(loaded, "error")
        findings = [_configuration(loaded)]
        identity = _identity(loaded.config, findings)
        findings += run_async(_check(loaded.config, identity, completions))
    except ConfigError as error:
        advice = "correct it; docs/configuration.md explains every key"
        target = str(find_file(config_path, os.environ) or ENVIRONMENT)
        show([failure("configuration", target, error, advice)], as_json=as_json)
        sys.exit(EXIT_CONFIG)
    show(findings, as_json=as_json)
    sys.exit(0 if all_passed(findings) else 1)


def _configuration(loaded: LoadedConfig) -> Finding:
    target = str(loaded.path or ENVIRONMENT)
    if loaded.config.backends:
        problems = [f"backends: {len(loaded.config.backends)}"]
        outcome, advice = Outcome.WARNING if loaded.warnings else Outcome.OK, ""
    else:
        problems = [NO_BACKEND.problem]
        outcome, advice = Outcome.FAILED, NO_BACKEND.advice
    details = "; ".join([*problems, *loaded.warnings])
    return Finding("configuration", target, outcome, details, advice)


def _identity(config: Config, findings: list[Finding]) -> Identity | None:
    path = config.identity.key_path
    try:
        identity = load(path)
    except IdentityError as error:
        findings.append(failure("identity", str(path), error, "restore it from a backup"))
        return None
    findings.append(Finding("identity", str(path), Outcome.OK, identity.fingerprint))
    return identity


async def _check(config: Config, identity: Identity | None, completions: bool) -> list[Finding]:
    backends = make_backends(config.backends, os.environ)
    findings = await check_coordinators(config, identity)
    discovery = Discovery(backends, lambda: None, pricing=config.pricing)
    try:
        await discovery.check_all()
        served = discovery.served_models()
        findings += [
            Finding("offer", warning.target, Outcome.WARNING, warning.problem, warning.what_to_do)
            for warning in offer_warnings(served, discovery.states, config)
        ]
        findings += missing_offer(served)
        for state in discovery.states:
            findings += await check_backend_state(state, request_completions=completions)
    finally:
        for backend in backends.usable:
            await backend.close()
    return findings + [skipped_backend(skipped) for skipped in backends.skipped]
