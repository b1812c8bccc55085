"""The two requests of the pairing: one for a code, and one after the other for its state."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from provider_agent.adapters.errors import BackendError
from provider_agent.adapters.http.body_collector import BodyCollector
from provider_agent.adapters.http.client import HttpRequest, ResponseHead
from provider_agent.adapters.http.environment_proxy import environment_proxy
from provider_agent.adapters.http.http_client import http_client
from provider_agent.adapters.responses.retry_after import retry_after_s
from provider_agent.agent.cli.setup.pairing_messages import (
    Activation,
    DetectedBackend,
    Expired,
    PairCode,
    PairingFailed,
    Pending,
    malformed,
    parse_issued,
    parse_polled,
)
from provider_agent.agent.config.addresses import is_loopback
from provider_agent.agent.version import agent_version
from provider_agent.protocol.field_values import to_line

REQUEST_TIMEOUT_S: Final = 10.0
"""The timeout of one request with its response."""

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_BODY_BYTES: Final = 1024 * 1024
"""A thousand activated models take about 100 KB."""

_MAX_MESSAGE_CHARS: Final = 200
_TEMPORARY: Final = frozenset({408, 425, 429})
"""Statuses below 500 of a server that may answer the same request later."""

_NOT_FOUND: Final = 404
_GONE: Final = 410


class PairingClient:
    """Talks to the HTTP API of a marketplace. `close` closes its connection.

    Args:
        api_url: see `Marketplace`.
        request_timeout_s: the timeout of one request with its response.
    """

    def __init__(self, api_url: str, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        is_local = is_loopback(urlsplit(api_url).hostname or "")
        headers = {
            "User-Agent": "provider-agent",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._client = http_client(
            api_url,
            headers,
            reuse=True,
            remote=not is_local,
            connect_s=_CONNECT_TIMEOUT_S,
            proxy=None if is_local else environment_proxy(api_url),
        )
        self._request_timeout_s = request_timeout_s

    async def issue(self, public_key: str) -> PairCode:
        """Request a code for a public key in base64.

        Raises:
            PairingFailed: there was no usable response.
        """
        head, body = await self._post("/v1/host/pair/issue", {"agent_pubkey": public_key})
        if head.status == _NOT_FOUND:
            reason = "the server does not pair agents (HTTP status 404)"
            raise PairingFailed(reason, is_temporary=False)
        if not _is_success(head):
            raise _refused(head, body)
        return parse_issued(body, head.headers.get("Date", ""))

    async def poll(
        self, code: PairCode, backends: Sequence[DetectedBackend]
    ) -> Pending | Expired | Activation:
        """Ask for the state of a code, and report the servers of this machine for the page.

        Raises:
            PairingFailed: there was no usable response.
        """
        capabilities = {"backends": backends, "agent_version": agent_version()}
        body = {"poll_token": code.poll_token, "capabilities": capabilities}
        head, answer = await self._post("/v1/host/pair/poll", body)
        if head.status == _GONE:
            return Expired()
        if not _is_success(head):
            raise _refused(head, answer, code.poll_token)
        return parse_polled(answer)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _post(self, path: str, body: object) -> tuple[ResponseHead, bytes]:
        response = BodyCollector(_MAX_BODY_BYTES)
        try:
            async with asyncio.timeout(self._request_timeout_s):
                request = HttpRequest(path, {}, msgspec.json.encode(body))
                await self._client.exchange(request, response)
        except TimeoutError as error:
            reason = f"no response within {self._request_timeout_s:.0f} s"
            raise PairingFailed(reason, is_temporary=True) from error
        except BackendError as error:
            reason, *_ = (error.details or str(error)).split("; ")  # the rest is about a backend
            raise PairingFailed(reason, is_temporary=True) from error
        if response.is_cut:
            raise malformed("it is too long")
        return response.head, bytes(response.body)


def _is_success(head: ResponseHead) -> bool:
    return 200 <= head.status < 300


def _refused(head: ResponseHead, body: bytes, secret: str = "") -> PairingFailed:
    """Return the error for a status other than 200, with the server's message if it has one."""
    reason = f"the server answered with HTTP status {head.status}"
    message = _message(body)
    if secret:
        message = message.replace(secret, "[secret]")
    if message:
        reason += f": {to_line(message, _MAX_MESSAGE_CHARS).rstrip('.')}"
    wait = retry_after_s(head.status, head.headers, time.time()) or 0.0
    is_temporary = head.status >= 500 or head.status in _TEMPORARY
    return PairingFailed(reason, is_temporary=is_temporary, retry_after_s=wait)


def _message(body: bytes) -> str:
    """Return the text in a JSON error such as `{"error": "…"}` or `{"error": {"message": "…"}}`."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""
    for name in ("error", "message"):
        inner = found.get(name) if isinstance(found, dict) else None
        if isinstance(inner, str):
            return inner
        found = inner if isinstance(inner, dict) else found
    return ""
