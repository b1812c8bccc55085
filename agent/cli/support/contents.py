"""The files of a support bundle."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from provider_agent.agent.cli.check.command import run_checks
from provider_agent.agent.cli.status_client import NoAgent, WantedAgent, fetch_status_page
from provider_agent.agent.config import LoadedConfig, masked
from provider_agent.agent.config.addresses import MASK
from provider_agent.agent.version import agent_version, is_compiled
from provider_agent.protocol.limits import SUBPROTOCOL

_LIBRARIES: Final = (
    *("websockets", "aiohttp", "httptools", "msgspec", "uvloop", "click"),
    *("pynacl", "prometheus-client", "rich"),
)
_PERSONAL: Final = ("display_name", "wallet", "contact_email")


def versions() -> dict[str, object]:
    """Return what the agent runs on."""
    return {
        "provider-agent": agent_version(),
        "compiled": is_compiled(),
        "protocol": SUBPROTOCOL,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "container": _in_container(),
        "libraries": {name: _version_of(name) for name in _LIBRARIES},
    }


def settings(loaded: LoadedConfig, environ: Mapping[str, str]) -> dict[str, object]:
    """Return every setting and its origin; of the environment, only the names of variables."""
    values = masked(loaded.config)
    operator = values["operator"]
    if isinstance(operator, dict):
        operator.update({name: MASK for name in _PERSONAL if operator.get(name)})
    return {
        "file": str(loaded.path or ""),
        "settings": values,
        "origins": loaded.origins,
        "warnings": loaded.warnings,
        "variables": sorted(name for name in environ if _is_ours(name)),
    }


async def check_results(loaded: LoadedConfig, *, dials: bool) -> object:
    """Return the findings of `check --no-completions`."""
    try:
        findings = await run_checks(loaded, False, dials=dials)
    except Exception as error:  # noqa: BLE001 - the bundle is needed most when something is broken
        return {"error": f"{type(error).__name__}: {error}"}
    return msgspec.to_builtins(findings)


async def running_agent(loaded: LoadedConfig) -> tuple[object, str]:
    """Return the state and the last log lines of the running agent, or why there are none."""
    address = loaded.config.observability.prometheus_addr
    try:
        page = await fetch_status_page(address, "/status", WantedAgent.of(loaded))
        state: object = json.loads(page.body)
    except (NoAgent, ValueError) as error:
        return {"error": str(error)}, f"{error}\n"
    if page.note and isinstance(state, dict):
        state = {"note": page.note, **state}
    try:
        log = await fetch_status_page(page.address, "/log")
    except NoAgent:
        return state, "the running agent does not serve its log, because its version is older\n"
    return state, log.body.decode(errors="replace")


def _in_container() -> bool:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))  # of Docker and Podman
    return any(mark.exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ


def _is_ours(name: str) -> bool:
    return name.startswith("PROVIDER_AGENT_") or name.lower().endswith("_proxy")


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
