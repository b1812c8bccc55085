"""The coordinator's environment variables, and those that are mistaken for them."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Final

from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

API_KEYS_VARIABLE: Final = "COORDINATOR_API_KEYS"
ENROLLMENT_CODES_VARIABLE: Final = "COORDINATOR_ENROLLMENT_CODES"
AGENT_KEYS_VARIABLE: Final = "COORDINATOR_AGENT_KEYS"
CLUSTER_VARIABLE: Final = "COORDINATOR_CLUSTER"
DIALECT_VARIABLE: Final = "COORDINATOR_DIALECT"

_PREFIX: Final = "COORDINATOR_"
_ACCESS_VARIABLES: Final = (API_KEYS_VARIABLE, ENROLLMENT_CODES_VARIABLE, AGENT_KEYS_VARIABLE)
_KNOWN: Final = (*_ACCESS_VARIABLES, CLUSTER_VARIABLE, DIALECT_VARIABLE)

_ACCESS: Final = re.compile(_PREFIX + r"\w*(KEY|CODE)")
"""Names of variables that probably restrict access."""

_SIMILARITY: Final = 0.85

_OF_KUBERNETES: Final = re.compile(_PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
"""Variables that Kubernetes sets in every pod for a service named `coordinator`."""


def check_variables(environ: Mapping[str, str], options: Collection[str]) -> None:
    """Report unused variables; reject those that look like a setting for access, maybe misspelled.

    Args:
        environ: the environment.
        options: the command's options, such as `--max-price`.

    Raises:
        SettingsError: the name of a variable resembles that of a setting for access. Without it the
            coordinator would be open to everyone.
    """
    for name in sorted(environ):
        if name in _KNOWN or _OF_KUBERNETES.fullmatch(name):
            continue
        if _ACCESS.match(name) or get_close_matches(name, _ACCESS_VARIABLES, 1, cutoff=_SIMILARITY):
            raise SettingsError(
                f"the variable {name} is not used; API keys of clients are read from "
                f"{API_KEYS_VARIABLE}, keys and enrollment codes of agents from "
                f"{AGENT_KEYS_VARIABLE} and {ENROLLMENT_CODES_VARIABLE}"
            )
        if name.startswith(_PREFIX):
            option = "--" + name.removeprefix(_PREFIX).lower().replace("_", "-")
            fields = {"option": option} if option in options else {}
            log.warning("variable is not used", variable=name, **fields)
