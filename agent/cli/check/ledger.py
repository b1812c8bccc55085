"""The finding about the ledger: can it be written?"""

import os

from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.config import Config


def check_ledger(config: Config) -> list[Finding]:
    """Return a finding about the configured ledger; none is configured by default. Writes nothing.

    A problem is only a warning: `check` may run as another user than the agent, and systemd creates
    the folder of a service when it starts it.
    """
    path = config.observability.ledger_path
    if path is None:
        return []
    problem = ""
    try:
        if path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        elif not path.parent.is_dir():
            problem = f"the folder {path.parent} does not exist"
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            problem = f"no permission to write in {path.parent}"
    except OSError as error:
        problem = error.strerror or str(error)
    if not problem:
        return [Finding("ledger", str(path), Outcome.OK, "can be written")]
    advice = "correct observability.ledger_path, or create its folder for the agent's user"
    details = f"cannot be written by this user: {problem}"
    return [Finding("ledger", str(path), Outcome.WARNING, details, advice)]
