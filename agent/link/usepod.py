"""What the links to a coordinator of the Use Pod dialect share, and what they log."""

from collections.abc import Callable
from pathlib import Path

from provider_agent.agent.identity.key import Identity
from provider_agent.agent.identity.provider_id import read_provider_id, store_provider_id
from provider_agent.agent.version import agent_version
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import LastError
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds
from provider_agent.protocol.usepod.session import UsepodSession

log = EventLogger(__name__)


class UsepodLinks:
    """Creates the dialect and the session of each link.

    Args:
        identity: the agent's key.
        key_path: the key file, which also holds the provider id.
        last_error: returns the last error, for heartbeats.
    """

    def __init__(
        self,
        identity: Identity,
        key_path: Path,
        last_error: Callable[[], LastError | None] = lambda: None,
    ) -> None:
        self._last_error = last_error
        self._identity = identity
        self._key_path = key_path
        self._provider_id: str | None = None
        """"": none is known; None: the file was not read yet."""
        self._job_ids = JobIds()

    def new_dialect(self) -> UsepodDialect:
        """Return the dialect of a new link; the jobs of the previous link are forgotten."""
        return UsepodDialect(self._job_ids, agent_version(), self._last_error)

    def new_session(self, enrollment_code: str) -> UsepodSession:
        """Return the session of a new link.

        Args:
            enrollment_code: the code to send if no provider id is known; "" for none.
        """
        if self._provider_id is None:
            self._provider_id = read_provider_id(self._key_path)
        return UsepodSession(
            public_key=self._identity.public_key,
            sign=self._identity.sign,
            agent_version=agent_version(),
            enrollment_code="" if self._provider_id else enrollment_code,
        )

    def welcomed(self, provider_id: str) -> None:
        """Keep the provider id of a welcome; "" if the coordinator named none."""
        if not provider_id or provider_id == self._provider_id:
            return
        self._provider_id = provider_id
        try:
            store_provider_id(self._key_path, provider_id)
        except (OSError, ValueError) as error:
            log.warning(
                "provider id not stored",
                path=str(self._key_path),
                reason=getattr(error, "strerror", None) or str(error),
                what_to_do="give the agent write access to the key file and its directory; "
                "otherwise it sends the enrollment code again after a restart",
            )
