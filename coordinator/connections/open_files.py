"""The limit of open files, each of which may be a connection."""

import sys

from provider_agent.coordinator.connections.limits import RESERVED_FILES, ConnectionCaps
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger

if sys.platform != "win32":
    import resource

log = EventLogger(__name__)


def connection_caps(settings: CoordinatorSettings) -> ConnectionCaps:
    """Return the caps of the settings, lowered to what the limit of open files allows."""
    caps = ConnectionCaps(
        settings.max_connections,
        settings.max_unauthenticated,
        settings.max_unauthenticated_per_address,
    )
    open_files = _soft_limit()
    if open_files is None or open_files - RESERVED_FILES >= caps.total:
        return caps
    lower = caps.within(open_files)
    log.warning(
        "fewer connections than configured, because of the limit of open files",
        connections=lower.total,
        configured=caps.total,
        open_files=open_files,
    )
    return lower


def raise_open_files_limit(connections: int) -> None:
    """Raise this process's soft limit as far as needed and allowed; it is often 1024."""
    soft = _soft_limit()
    if sys.platform == "win32" or soft is None or soft >= connections + RESERVED_FILES:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_FILES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a second limit (kern.maxfilesperproc)
        log.warning("cannot raise the limit of open files", wanted=wanted, error=str(error))


def _soft_limit() -> int | None:
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
