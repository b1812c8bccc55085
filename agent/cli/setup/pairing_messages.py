"""The responses of the pairing, and what they mean."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from provider_agent.agent.config import Price
from provider_agent.protocol.field_values import is_name, to_line
from provider_agent.protocol.limits import MAX_INTEGER

T = TypeVar("T")

CODE_VALID_S: Final = 600.0
"""How long a code is valid if the response does not say it in a usable form."""

MAX_VALID_S: Final = 1800.0
"""The longest wait for one code, whatever the server says."""

MAX_MODELS: Final = 1024
"""More would make a file that is too long for `read_file`."""

_MAX_CODE_CHARS: Final = 32
_MAX_TOKEN_CHARS: Final = 4096


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


def parse_issued(body: bytes, date: str) -> PairCode:
    """Return the code in the response to a request for one.

    Args:
        body: the response.
        date: its header `Date`.

    Raises:
        PairingFailed: the response is malformed.
    """
    issued = _decode(body, _Issued)
    if not is_name(issued.pair_code) or len(issued.pair_code) > _MAX_CODE_CHARS:
        raise malformed("the code is not usable")
    if len(issued.poll_token) > _MAX_TOKEN_CHARS:
        raise malformed("its token is too long")
    return PairCode(issued.pair_code, issued.poll_token, _valid_s(issued.expires_at, date))


def parse_polled(body: bytes) -> Pending | Expired | Activation:
    """Return the state in the response to a poll.

    Raises:
        PairingFailed: the response is malformed.
    """
    polled = _decode(body, _Polled)
    match polled.status:
        case "pending":
            return Pending()
        case "expired":
            return Expired()
        case "active":
            return _activation(polled)
        case other:
            raise malformed(f'the status "{to_line(other, 40)}" is unknown')


def malformed(reason: str) -> PairingFailed:
    """Return the error for a response that is not that of a marketplace."""
    # Temporary, because the page of a proxy or of a restarting server looks like this, too.
    return PairingFailed(f"the response is not usable: {reason}", is_temporary=True)


def _decode(body: bytes, target: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=target)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise malformed("it is not the expected JSON") from error


def _valid_s(expires_at: object, date: str) -> float:
    """Return how long a code is valid, by the clock of the server, not by that of this machine."""
    try:
        end = datetime.fromisoformat(str(expires_at))
        now = parsedate_to_datetime(date)
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
