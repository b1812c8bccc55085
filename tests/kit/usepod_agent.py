"""An agent for tests with a coordinator of the Use Pod dialect."""

import uuid

from provider_agent.agent.config import Config, CoordinatorConfig, LimitsConfig, PricingConfig
from tests.kit.agent_config import agent_config

PRICING = PricingConfig(default_input_per_1m=500_000, default_output_per_1m=750_000)


def new_id() -> str:
    """Return a job id as the marketplace makes them."""
    return str(uuid.uuid4())


def usepod_config(url: str, pricing: PricingConfig = PRICING, max_concurrent: int = 2) -> Config:
    """Return the settings of an agent for a coordinator of the dialect at `url`."""
    return agent_config(
        "",
        coordinator=CoordinatorConfig(url=url, dialect="usepod", enrollment_code="POD-1"),
        pricing=pricing,
        limits=LimitsConfig(max_concurrent=max_concurrent, max_tokens_per_minute=200_000),
    )
