"""Why a request was sent to no agent."""

from msgspec import Struct

from provider_agent.coordinator.reason import Reason


class NoAgent(Struct, frozen=True):
    """Why a request was sent to no agent.

    Attributes:
        reason: the cause.
        detail: why the model is unroutable; "" for other reasons.
        retry_after_s: seconds until a new attempt may succeed; None if unknown.
    """

    reason: Reason
    detail: str = ""
    retry_after_s: int | None = None
