"""The notices that the coordinator sends to the operators of agents."""

from typing import Final

from provider_agent.protocol.frames import Notice
from provider_agent.protocol.limits import MIB

REPLACED: Final = Notice(
    "replaced",
    "warning",
    "Another process with this key is connected and receives the new jobs.",
)


def slow_reading(max_unsent_bytes: int) -> Notice:
    """Create the notice for an agent for which more than `max_unsent_bytes` of requests wait."""
    return Notice(
        "slow_reading",
        "warning",
        f"More than {max_unsent_bytes // MIB} MiB of requests wait, because this agent reads them "
        "slowly; while more than that wait, it receives no further jobs.",
    )


def duplicate_model(model_id: str) -> Notice:
    """Create the notice for a `Capabilities` with two offers of one model."""
    return Notice(
        "duplicate_model",
        "warning",
        "The model is offered more than once; its operations are merged.",
        model_id,
    )
