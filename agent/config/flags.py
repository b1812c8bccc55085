"""Which keys have a flag, and the name of every key's environment variable.

Secrets have no flag: command lines show in `ps`. Lists and tables have none either.
"""

from typing import Final

ENVIRONMENT_PREFIX: Final = "PROVIDER_AGENT_"
CONFIG_VARIABLE: Final = "PROVIDER_AGENT_CONFIG"
"""Names the file to read, as `--config` does."""

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
    """The environment variable of a dotted key: `PROVIDER_AGENT_LIMITS_MAX_CONCURRENT`."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()
