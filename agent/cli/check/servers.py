"""Checks that a server is of the configured kind, and is configured only once."""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from provider_agent.agent.backends.local_servers import PRODUCTS, FoundServer, identify_server
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.config import BackendConfig
from provider_agent.agent.config.addresses import is_loopback

IDENTIFY_TIMEOUT_S: Final = 5.0
"""Seconds for all requests to one server, which may be on another machine."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


async def other_products(configs: Sequence[BackendConfig]) -> dict[tuple[str, str], FoundServer]:
    """Return the servers of another kind than configured, by the configured kind and url.

    Only kinds that stand for one product are compared: `openai_compatible` stands for any.
    """
    wanted = [(config.kind, config.url) for config in configs if config.kind in PRODUCTS]
    compared = [(kind, url) for kind, url in wanted if url is not None]
    found = await asyncio.gather(
        *(identify_server(url, timeout_s=IDENTIFY_TIMEOUT_S) for _, url in compared)
    )
    return {
        (kind, url): server
        for (kind, url), server in zip(compared, found, strict=True)
        if server is not None and server.product != kind
    }


def wrong_kind(kind: str, server: FoundServer) -> str:
    """Return what is wrong, such as "this is llama.cpp, not vLLM"."""
    return f"this is {server.name}, not {PRODUCTS[kind]}"


def duplicate_servers(configs: Sequence[BackendConfig]) -> list[Finding]:
    """Return a warning for each backend whose server is configured before under another name.

    The agent would count the server's capacity twice, and send it twice as many jobs as it can run.
    The configuration itself refuses only the same kind with the same address.
    """
    seen: dict[tuple[object, ...], BackendConfig] = {}
    findings = []
    for config in configs:
        if config.url is None or config.kind not in (*PRODUCTS, "openai_compatible"):
            continue
        first = seen.setdefault(_server(config.url), config)
        if first is not config:
            details = f"the same server as {first.kind}:{first.url}: its capacity counts twice"
            target = f"{config.kind}:{config.url}"
            advice = "remove one of the two [[backends]] tables"
            findings.append(Finding("backend", target, Outcome.WARNING, details, advice))
    return findings


def _server(url: str) -> tuple[object, ...]:
    """Return what two addresses of one server have in common; all loopback names are one host."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower().rstrip(".")
    return (
        "loopback" if is_loopback(host) else host,
        parts.port or _DEFAULT_PORTS.get(parts.scheme),
        parts.path,
    )
