"""What an operator can do about a refused job."""

from typing import Final

from provider_agent.agent.backends.routing import RefusalReason

REMEDIES: Final[dict[str, str]] = {
    RefusalReason.DRAINING: "the agent was stopping, paused, or outside its schedule",
    RefusalReason.NOT_SERVED: "no healthy backend serves the model: see `provider-agent models`",
    RefusalReason.PRICE: "only backends above the offered price were left: see `overflow`",
    RefusalReason.FORMAT: "its servers lack the format or operation: see `provider-agent models`",
    RefusalReason.BACKENDS_FULL: "its backends were at max_concurrent, at a token limit, or down",
    RefusalReason.AGENT_FULL: "raise limits.max_concurrent if the servers have free slots",
    RefusalReason.TOKEN_LIMIT: "raise limits.max_tokens_per_minute, or wait",
}
"""What to do about a refusal; docs/operations/monitoring.md has the same list."""
