"""Checks the API keys of clients, and slows down guesses."""

import math
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from provider_agent.coordinator.access import SecretSet, digest_of
from provider_agent.coordinator.connections.client_address import ProxyNetworks, client_address
from provider_agent.coordinator.connections.failed_attempts import FailedAttempts, network_of
from provider_agent.coordinator.connections.guarded_connection import connection_of
from provider_agent.coordinator.http.client_errors import ClientError

MAX_REMEMBERED_KEYS: Final = 4096
"""Pairs of network address and key that are remembered as valid; those that have not been used for
the longest time are forgotten first."""

_UNAUTHORIZED: Final = ClientError(
    HTTPStatus.UNAUTHORIZED,
    "invalid_api_key",
    "The API key is missing or unknown; send it as `Authorization: Bearer …` or `x-api-key`.",
)


class ApiKeyCheck:
    """Decides whether a request has a valid API key.

    After several wrong keys from one address, keys from there are checked only every few seconds.
    A key that was valid from that address before still is, so that a guesser cannot exclude the
    clients behind the same address.

    Args:
        keys: the valid keys; None if no key is needed.
        failures: the failed attempts of each address.
        proxies: proxies whose `X-Forwarded-For` is believed.
    """

    def __init__(
        self, keys: SecretSet | None, failures: FailedAttempts, proxies: ProxyNetworks
    ) -> None:
        self._keys = keys
        self._failures = failures
        self._proxies = proxies
        self._valid: dict[tuple[str, bytes], None] = {}  # in the order of their last use

    def __repr__(self) -> str:
        return f"<ApiKeyCheck {self._keys!r} {self._failures!r} valid={len(self._valid)}>"

    def refusal(self, request: web.Request) -> ClientError | None:
        """Return why a request is refused, or mark its connection as authenticated."""
        refusal = None if self._keys is None else self._check(self._keys, request)
        connection = connection_of(request)
        if refusal is None and connection is not None:
            connection.authenticated()
        return refusal

    def _check(self, keys: SecretSet, request: web.Request) -> ClientError | None:
        key = api_key_of(request)
        if not key:
            return _UNAUTHORIZED
        address = client_address(request, self._proxies)
        entry = (network_of(address), digest_of(key))
        if entry in self._valid:
            self._valid[entry] = self._valid.pop(entry)  # the latest is forgotten last
            return None
        wait_s = self._failures.wait_s(address)
        if wait_s > 0:
            return _too_many_failures(wait_s)
        if not keys.holds(key):
            self._failures.add(address)
            return _UNAUTHORIZED
        self._valid[entry] = None
        if len(self._valid) > MAX_REMEMBERED_KEYS:
            del self._valid[next(iter(self._valid))]
        return None


def _too_many_failures(wait_s: float) -> ClientError:
    return ClientError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_failures",
        "Too many wrong API keys from this address; try again later.",
        math.ceil(wait_s),
    )


def api_key_of(request: web.Request) -> str:
    """Return the API key of a request: a bearer token, else `x-api-key`, else ""."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.headers.get("x-api-key", "").strip()
