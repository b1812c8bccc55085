"""The `.creds` file of a NATS user: its JWT, and the seed of its key."""

import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.protocol.limits import KIB

_MAX_BYTES: Final = 64 * KIB
"""The largest file; JWTs with many permissions have a few kilobytes."""

_FILE: Final = re.compile(
    rb"-+BEGIN NATS USER JWT-+\s+(?P<jwt>[\w-]+\.[\w-]+\.[\w-]+)\s"
    rb".*-+BEGIN USER NKEY SEED-+\s+(?P<seed>SU[A-Z2-7]{56})\s",
    re.DOTALL,
)


class Credentials(Struct, frozen=True):
    """What a `.creds` file contains; `repr` shows neither."""

    jwt: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "<Credentials>"


def read_credentials(file: Path) -> Credentials:
    """Read a file.

    Raises:
        SettingsError: it cannot be read, or is not a `.creds` file; the text contains nothing of
            its content.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read") from error
    found = _FILE.search(content)
    if found is None:
        raise SettingsError(
            f"{file}: is not the credentials file of a NATS user, with its JWT and its seed"
        )
    return Credentials(found["jwt"], found["seed"])
