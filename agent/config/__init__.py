"""The operator's settings, from `agent.toml`, environment variables and flags, as typed Structs.

`load_config` reads, merges and validates all settings, and records the origin of each. The settings
never contain an API key, only the name of the variable or the file that holds it.
"""

from provider_agent.adapters.settings import TimeoutSettings
from provider_agent.agent.config.errors import ConfigError
from provider_agent.agent.config.load import LoadedConfig, load_config
from provider_agent.agent.config.schema import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    IdentityConfig,
    LimitsConfig,
    ObservabilityConfig,
    OperatorConfig,
    Price,
    PricingConfig,
    ScheduleConfig,
    WindowConfig,
)
from provider_agent.agent.config.secrets import masked, missing_key, resolve_api_key, secret_values

__all__ = [
    "BackendConfig",
    "Config",
    "ConfigError",
    "CoordinatorConfig",
    "DiscoveryConfig",
    "IdentityConfig",
    "LimitsConfig",
    "LoadedConfig",
    "ObservabilityConfig",
    "OperatorConfig",
    "Price",
    "PricingConfig",
    "ScheduleConfig",
    "TimeoutSettings",
    "WindowConfig",
    "load_config",
    "masked",
    "missing_key",
    "resolve_api_key",
    "secret_values",
]
