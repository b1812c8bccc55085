"""The settings of an agent under test."""

from pathlib import Path

from provider_agent.agent.config import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    IdentityConfig,
    LimitsConfig,
    ObservabilityConfig,
    OperatorConfig,
    PricingConfig,
    ScheduleConfig,
)


def agent_config(
    url: str,
    *,
    key_path: Path = Path("unused"),
    operator: OperatorConfig | None = None,
    coordinator: CoordinatorConfig | None = None,
    backends: tuple[BackendConfig, ...] = (),
    pricing: PricingConfig | None = None,
    limits: LimitsConfig | None = None,
    discovery: DiscoveryConfig | None = None,
    schedule: ScheduleConfig | None = None,
    prometheus_addr: str = "",
    ledger_path: Path | None = None,
) -> Config:
    """Return settings with the given sections, and defaults for the others.

    Without `prometheus_addr`, the agent has no status server.

    `url` is ignored if `coordinator` is given.
    """
    return Config(
        operator=operator or OperatorConfig(),
        coordinator=coordinator or CoordinatorConfig(url=url),
        identity=IdentityConfig(key_path=key_path),
        backends=backends,
        pricing=pricing or PricingConfig(),
        limits=limits or LimitsConfig(),
        discovery=discovery or DiscoveryConfig(),
        schedule=schedule or ScheduleConfig(),
        observability=ObservabilityConfig(prometheus_addr=prometheus_addr, ledger_path=ledger_path),
    )
