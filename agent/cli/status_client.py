"""Asks the running agent's status server; what `status`, `health` and `check` share."""

from typing import Final

import aiohttp

from agent.config.addresses import listen_address

_TIMEOUT_S: Final = 3.0
"""A healthy agent answers in milliseconds; container health checks have a few seconds."""

_MAX_BYTES: Final = 4 * 1024 * 1024


class NoAgent(Exception):
    """No agent answers there; the text says why."""


async def fetch_status_page(prometheus_addr: str, path: str) -> tuple[int, bytes]:
    """(HTTP status, body) of one page of the running agent's status server.

    Raises:
        NoAgent: the status server is off or does not answer.
    """
    if not prometheus_addr:
        raise NoAgent('the status server is off ([observability] prometheus_addr = "")')
    host, port = listen_address(prometheus_addr)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}{path}", allow_redirects=False) as response,
        ):
            return response.status, await response.content.read(_MAX_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NoAgent(f"no agent answers on {address}; is `provider-agent run` up?") from error
