"""The flag of a key, if it has one, and the environment variable of every key.

Secrets have no flag, because `ps` shows command lines. Lists and tables have none either.
"""

from typing import Final

ENVIRONMENT_PREFIX: Final = "PROVIDER_AGENT_"
CONFIG_VARIABLE: Final = "PROVIDER_AGENT_CONFIG"
"""Environment variable with the path of the file, equivalent to `--config`."""

FLAGS: Final = {
    "coordinator.url": "--coordinator-url",
    "coordinator.allow_insecure": "--allow-insecure",
    "identity.key_path": "--key-path",
    "limits.max_concurrent": "--max-concurrent",
    "limits.drain_timeout_s": "--drain-timeout",
    "observability.prometheus_addr": "--prometheus-addr",
    "observability.log_level": "--log-level",
    "observability.log_format": "--log-format",
}


def variable_of(key: str) -> str:
    """Return the variable of a dotted key, such as `PROVIDER_AGENT_LIMITS_MAX_CONCURRENT`."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()
