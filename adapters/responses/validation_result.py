"""What the bytes of a response show."""

from msgspec import Struct

from provider_agent.adapters.base import ResponseOutcome
from provider_agent.adapters.responses.events import ResponseFailure
from provider_agent.protocol.frames import Usage


class ValidationResult(Struct, frozen=True):
    """What the bytes of a response that may be incomplete show.

    Attributes:
        usage: see `ResponseOutcome`.
        least_output_tokens: see `ResponseOutcome`.
        error_relayed: see `ResponseOutcome`.
        between_events: see `ResponseOutcome`.
        failure: None for a complete, successful response.
    """

    usage: Usage = Usage()
    least_output_tokens: int = 0
    error_relayed: bool = False
    between_events: bool = True
    failure: ResponseFailure | None = None

    @property
    def outcome(self) -> ResponseOutcome:
        """The result for the sink."""
        return ResponseOutcome(
            self.usage,
            self.error_relayed,
            self.between_events,
            least_output_tokens=self.least_output_tokens,
        )
