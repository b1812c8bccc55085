"""The common part of passthroughs: the operator's API key, and entries and dates of a catalog."""

import time
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import ClassVar, Final, TypeVar

import msgspec

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    Job,
    JobSink,
    MissingApiKey,
)
from provider_agent.adapters.servers.http_backend import HttpBackend

ItemT = TypeVar("ItemT")


REMOTE_TIMEOUTS: Final = BackendTimeouts(first_byte_s=120.0, silence_s=60.0, total_s=1800.0)
"""A remote service does not load models on demand: minutes of silence mean that it is not going to
respond. A response that runs for more than half an hour probably costs more than the client meant
to spend."""


class PassthroughBackend(HttpBackend):
    """A remote service that is paid with the operator's key.

    A subclass implements `check_key` and `fetch_catalog`.

    Class attributes:
        service: name of the service, for messages.
    """

    native: ClassVar[bool] = False
    # To confirm a failure, `generate_token` would spend the operator's money.
    confirms_failures: ClassVar[bool] = False
    default_timeouts: ClassVar[BackendTimeouts] = REMOTE_TIMEOUTS
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
        """Check that the key is accepted. A public catalog does not show that."""
        self._require_key()
        await self.check_key()

    async def list_models(self) -> list[BackendModel]:
        """List the models of the catalog; `withheld` says why one is not offered."""
        self._require_key()
        return self.select_models(await self.fetch_catalog())

    async def execute(self, job: Job, sink: JobSink) -> None:
        """Execute one job with the operator's key; see `Backend.execute`."""
        self._require_key()
        await super().execute(job, sink)

    @abstractmethod
    async def check_key(self) -> None:
        """Check that the service accepts the key, and that no reported spending limit is used up.

        Raises:
            BackendError: the key is refused, its limit is used up, or the service did not respond.
        """

    @abstractmethod
    async def fetch_catalog(self) -> list[BackendModel]:
        """Fetch the models of the service; `withheld` is set for those that cannot be offered.

        Raises:
            BackendError: the service did not respond, or the response is invalid.
        """

    def today(self) -> date:
        """Return the current date in UTC, the time zone of catalogs."""
        return datetime.fromtimestamp(self._wall_clock(), UTC).date()

    def _require_key(self) -> None:
        if not self.settings.api_key:
            raise MissingApiKey(
                f"{self.service} needs the operator's API key; set the environment variable"
                " that api_key_env names"
            )


def decode_valid_entries(items: list[msgspec.Raw], item_type: type[ItemT]) -> list[ItemT]:
    """Decode the entries of a catalog, and skip malformed ones."""
    found = []
    for item in items:
        try:
            found.append(msgspec.json.decode(item, type=item_type))
        except (ValueError, RecursionError):
            continue
    return found


def smallest_context_window(*windows: int | None) -> int | None:
    """Return the smallest known context window; None if none is known."""
    return min((window for window in windows if window), default=None)


def is_due(day: str, today: date) -> bool:
    """Return whether an ISO date or timestamp is today or earlier; False for other text."""
    try:
        return date.fromisoformat(day[:10]) <= today
    except ValueError:
        return False
