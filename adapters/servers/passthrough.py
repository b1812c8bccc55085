"""What remote passthroughs have in common: the operator's key, prices and dates of a catalog."""

import time
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, DecimalException
from typing import ClassVar, Final, TypeVar

import msgspec

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    Job,
    JobResult,
    JobSink,
    MissingApiKey,
)
from provider_agent.adapters.servers.http_backend import HttpBackend

_TOKENS_PER_PRICE: Final = 1_000_000
_MICRO_USD: Final = 1_000_000
_MAX_PRICE: Final = 10**15
"""A billion dollars per million tokens: above it the number is a mistake."""


ItemT = TypeVar("ItemT")


class PassthroughBackend(HttpBackend):
    """A remote service that is paid with the operator's key.

    Class attributes:
        service: its name, for messages.
    """

    native: ClassVar[bool] = False
    # A remote service does not load models on demand: minutes of silence mean that it is not going
    # to answer. A response that runs for an hour costs more than the client meant to spend.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(
        first_byte_s=120.0, silence_s=60.0, total_s=1800.0
    )
    service: ClassVar[str]

    def __init__(
        self,
        settings: BackendSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._wall_clock = wall_clock

    async def check_health(self) -> None:
        """Ask whether the key is accepted: the catalog answers without one."""
        self._require_key()
        await self.check_key()

    async def list_models(self) -> list[BackendModel]:
        """What the key can use now, of which the operator's list is offered."""
        self._require_key()
        return self.select_models(await self.fetch_catalog())

    async def execute(self, job: Job, sink: JobSink) -> JobResult:
        """Run one job with the operator's key; see `Backend.execute`."""
        self._require_key()
        return await super().execute(job, sink)

    @abstractmethod
    async def check_key(self) -> None:
        """Return when the service accepts the key.

        Raises:
            BackendError: why it does not.
        """

    @abstractmethod
    async def fetch_catalog(self) -> list[BackendModel]:
        """The models of the service, with the reason why one cannot be offered.

        Raises:
            BackendError: the service did not answer, or not as it should.
        """

    def today(self) -> date:
        """The date in UTC, which catalogs count in."""
        return datetime.fromtimestamp(self._wall_clock(), UTC).date()

    def _require_key(self) -> None:
        if not self.settings.api_key:
            raise MissingApiKey(
                f"{self.service} needs the operator's key; put it into the environment variable"
                " that api_key_env names"
            )


def decode_valid_entries(items: list[msgspec.Raw], item_type: type[ItemT]) -> list[ItemT]:
    """The entries of a catalog that have the expected shape: one odd entry hides no other."""
    found = []
    for item in items:
        try:
            found.append(msgspec.json.decode(item, type=item_type))
        except (ValueError, RecursionError):
            continue
    return found


def has_passed(day: str, today: date) -> bool:
    """Whether an ISO date (a time of day may follow) is today or over; False for other text."""
    try:
        return date.fromisoformat(day[:10]) <= today
    except ValueError:
        return False


def micro_usd_per_million(price: str | float | None, *, tokens: int) -> int | None:
    """A catalog's price as `BackendModel` has it.

    Args:
        price: US dollars; text is exact.
        tokens: for how many tokens.

    Returns:
        Millionths of a US dollar per million tokens; None when the price is absent, negative (the
        catalog's word for "depends") or no number.
    """
    if price is None:
        return None
    try:
        exact = Decimal(str(price)) * _MICRO_USD * _TOKENS_PER_PRICE / tokens
        if not exact.is_finite() or not 0 <= exact <= _MAX_PRICE:
            return None
        return round(exact)
    except DecimalException:
        return None
