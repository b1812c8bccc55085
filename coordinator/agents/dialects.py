"""Which dialect an agent's connection uses, and what depends on it."""

import functools
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.protocol.codec import VERSION_1, CoordinatorDialect
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.limits import MIB
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from provider_agent.protocol.usepod.coordinator_session import is_signed, new_nonce
from provider_agent.protocol.usepod.dialect import HEARTBEAT_MS

_NONCE_BYTES: Final = 32
_INSTANCE_ID_BYTES: Final = 16

_USEPOD_WINDOW_BYTES: Final = 32 * MIB
"""Never full, because agents know no window: twice the sum of what a client may leave unread, the
largest message, and what is passed on but not acknowledged yet (a quarter of the window)."""


class NewConnection(Struct, frozen=True):
    """What a new connection needs.

    Attributes:
        dialect: the wire encoding.
        protocol: the protocol state, with an unused nonce.
        settings: the coordinator's settings, changed to what the dialect can do.
    """

    dialect: CoordinatorDialect
    protocol: CoordinatorProtocol
    settings: CoordinatorSettings


class ConnectionFactory:
    """Creates the dialect and the protocol state of each connection.

    Args:
        settings: the coordinator's settings.
        random_bytes: generates nonces and ids; must be cryptographically secure.
    """

    def __init__(self, settings: CoordinatorSettings, random_bytes: Callable[[int], bytes]) -> None:
        self._settings = settings
        self._usepod_settings = _usepod_settings(settings)
        self._random_bytes = random_bytes

    def __repr__(self) -> str:
        return f"<ConnectionFactory {sorted(self._settings.dialects)}>"

    def version_1(self, authorities: Iterable[str]) -> NewConnection:
        """Return a connection of protocol version 1; agents dial one of `authorities`."""
        protocol = CoordinatorProtocol(
            nonce=self._random_bytes(_NONCE_BYTES),
            name=self._settings.name,
            authorities=authorities,
            features=self._settings.features,
        )
        return NewConnection(VERSION_1, protocol, self._settings)

    def usepod(self) -> NewConnection:
        """Return a connection of the dialect of the Use Pod marketplace."""
        nonce = new_nonce(self._random_bytes)
        protocol = CoordinatorProtocol(
            nonce=nonce,
            name=self._settings.name,
            authorities=(),
            verify=functools.partial(is_signed, nonce=nonce),
            whole_requests=True,
        )
        dialect = UsepodCoordinatorDialect(self._random_bytes(_INSTANCE_ID_BYTES).hex())
        return NewConnection(dialect, protocol, self._usepod_settings)


def _usepod_settings(settings: CoordinatorSettings) -> CoordinatorSettings:
    """Return the settings of connections of the dialect: no resumption, no receipts."""
    return replace(
        settings,
        heartbeat_ms=HEARTBEAT_MS,
        resume_ms=0,
        window_bytes=_USEPOD_WINDOW_BYTES,
        receipts=ReceiptMode.OFF,
    )
