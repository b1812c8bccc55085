"""Where an installed system service keeps its identity key."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

SYSTEMD_STATE: Final = Path("/var/lib/provider-agent")
"""The folder that `StateDirectory` creates for a system service; `%S` is /var/lib."""

LAUNCHD_STATE: Final = Path("/Library/Application Support/provider-agent")

SERVICE_KEYS: Final[Mapping[str, Path]] = MappingProxyType(
    {"linux": SYSTEMD_STATE / "identity.key", "darwin": LAUNCHD_STATE / "identity.key"}
)
"""The key file, by `sys.platform`."""
