"""The two requests of the pairing: one for a code, and one after the other for its state."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from provider_agent.adapters.errors import BackendError
from provider_agent.adapters.http.body_collector import BodyCollector
from provider_agent.adapters.http.client import HttpRequest, ResponseHead
from provider_agent.adapters.http.environment_proxy import environment_proxy
from provider_agent.adapters.http.http_client import http_client
from provider_agent.adapters.responses.retry_after import retry_after_s
from provider_agent.agent.config import Price
from provider_agent.agent.config.addresses import is_loopback
from provider_agent.agent.version import agent_version
from provider_agent.protocol.field_values import is_name, to_line
from provider_agent.protocol.limits import MAX_INTEGER

T = TypeVar("T")

CODE_VALID_S: Final = 600.0
"""How long a code is valid if the response does not say it in a usable form."""

MAX_VALID_S: Final = 1800.0
"""The longest wait for one code, whatever the server says."""

REQUEST_TIMEOUT_S: Final = 10.0
"""The timeout of one request with its response."""

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_BODY_BYTES: Final = 1024 * 1024
"""A thousand activated models take about 100 KB."""

MAX_MODELS: Final = 1024
"""More would make a file that is too long for `read_file`."""

_MAX_CODE_CHARS: Final = 32
_MAX_TOKEN_CHARS: Final = 4096
_MAX_MESSAGE_CHARS: Final = 200
_TEMPORARY: Final = frozenset({408, 425, 429})
"""Statuses below 500 of a server that may answer the same request later."""

_GONE: Final = 410


class PairingFailed(Exception):
    """A request has failed.

    Attributes:
        is_temporary: whether the same request may succeed soon.
        retry_after_s: how long the server wants to be left alone; 0 if it does not say that.
    """

    def __init__(self, reason: str, *, is_temporary: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.is_temporary = is_temporary
        self.retry_after_s = retry_after_s


class PairCode(Struct, frozen=True):
    """A code for the operator.

    Attributes:
        text: the code, in printable characters.
        poll_token: the secret with which this agent asks for the state of the code.
        valid_s: how long it is valid, from now on.
    """

    text: str
    poll_token: str
    valid_s: float

    def __repr__(self) -> str:
        return "<PairCode>"


class DetectedBackend(Struct, frozen=True):
    """An inference server, as the pairing page shows it."""

    kind: str
    url: str
    models: tuple[str, ...]


class ActivatedModel(Struct, frozen=True):
    """A model that the operator has activated on the page.

    Attributes:
        model_id: its id.
        price: its price; None if the page did not set one.
        max_concurrent: the most jobs at once, at least 1.
    """

    model_id: str
    price: Price | None
    max_concurrent: int


class Activation(Struct, frozen=True):
    """A successful pairing.

    Attributes:
        provider_id: the marketplace's name for this agent; "" if it is missing or not usable.
        models: the activated models.
    """

    provider_id: str
    models: tuple[ActivatedModel, ...]


class Pending(Struct, frozen=True):
    """The code was not entered yet."""


class Expired(Struct, frozen=True):
    """The code was not entered in time."""


class _Issued(Struct):
    pair_code: str
    poll_token: str
    expires_at: object = None


class _Polled(Struct):
    # Without `host_token`: the agent does not need this secret, so it is not kept anywhere.
    status: str
    provider_id: object = None
    model_config: object = None


class _ModelConfig(Struct):
    model_id: str
    input_per_1m: int = 0
    output_per_1m: int = 0
    max_concurrent: int = 4


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
        if not _is_success(head):
            raise _refused(head, body)
        issued = _decode(body, _Issued)
        if not is_name(issued.pair_code) or len(issued.pair_code) > _MAX_CODE_CHARS:
            raise _malformed("the code is not usable")
        if len(issued.poll_token) > _MAX_TOKEN_CHARS:
            raise _malformed("its token is too long")
        return PairCode(issued.pair_code, issued.poll_token, _valid_s(issued.expires_at, head))

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
        polled = _decode(answer, _Polled)
        match polled.status:
            case "pending":
                return Pending()
            case "expired":
                return Expired()
            case "active":
                return _activation(polled)
            case other:
                raise _malformed(f'the status "{to_line(other, 40)}" is unknown')

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
            raise _malformed("it is too long")
        return response.head, bytes(response.body)


def _decode(body: bytes, target: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=target)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _malformed("it is not the expected JSON") from error


def _is_success(head: ResponseHead) -> bool:
    return 200 <= head.status < 300


def _malformed(reason: str) -> PairingFailed:
    # Temporary, because the page of a proxy or of a restarting server looks like this, too.
    return PairingFailed(f"the response is not usable: {reason}", is_temporary=True)


def _refused(head: ResponseHead, body: bytes, secret: str = "") -> PairingFailed:
    """Return the error for a status other than 200, with the server's message if it has one."""
    reason = f"the server answered with HTTP status {head.status}"
    message = _message(body)
    if secret:
        message = message.replace(secret, "[secret]")
    if message:
        reason += f": {to_line(message, _MAX_MESSAGE_CHARS)}"
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


def _valid_s(expires_at: object, head: ResponseHead) -> float:
    """Return how long a code is valid, by the clock of the server, not by that of this machine."""
    try:
        end = datetime.fromisoformat(str(expires_at))
        now = parsedate_to_datetime(head.headers.get("Date", ""))
    except (ValueError, OverflowError):
        return CODE_VALID_S
    valid_s = (_aware(end) - _aware(now)).total_seconds()
    return min(valid_s, MAX_VALID_S) if valid_s > 0 else CODE_VALID_S


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _activation(polled: _Polled) -> Activation:
    provider_id = polled.provider_id if isinstance(polled.provider_id, str) else ""
    entries = polled.model_config if isinstance(polled.model_config, list) else []
    models = [model for entry in entries[:MAX_MODELS] if (model := _model(entry)) is not None]
    return Activation(provider_id if is_name(provider_id) else "", tuple(models))


def _model(entry: object) -> ActivatedModel | None:
    """Return an activated model; None for an entry that is malformed.

    The pairing has succeeded at this point, so one bad entry must not fail it.
    """
    try:
        config = msgspec.convert(entry, _ModelConfig)
    except msgspec.ValidationError:
        return None
    if not is_name(config.model_id):
        return None
    prices = (config.input_per_1m, config.output_per_1m)
    is_priced = all(0 < price <= MAX_INTEGER for price in prices)
    return ActivatedModel(
        config.model_id, Price(*prices) if is_priced else None, max(config.max_concurrent, 1)
    )
