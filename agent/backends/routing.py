"""Which backends may execute a job, best first."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from provider_agent.adapters.base import Backend
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.config.schema import Price
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import find_operation


class Route(Struct, frozen=True):
    """One backend that serves a model now. Valid until the next `await`.

    Attributes:
        backend: executes the job.
        order: the backend's position in the configuration; decides between otherwise equal routes.
        native: whether the backend runs on the operator's own hardware.
        operations: the operations that the backend supports for this model.
        in_flight: the number of this agent's jobs on the backend now.
        capacity: the most jobs of this agent on the backend at the same time; 0 if it may receive
            no job now.
        retry_after_s: seconds until the backend's token limit admits jobs again; None if it admits
            them now, or the backend has no limit.
        model_id: the model that the backend serves.
        price: the price at which the backend runs jobs of the model; None: no price.
    """

    backend: Backend
    order: int
    native: bool
    operations: frozenset[str]
    in_flight: int
    capacity: int
    retry_after_s: float | None = None
    model_id: str = ""
    price: Price | None = None

    @property
    def backend_id(self) -> str:
        """The id of the backend."""
        return self.backend.id


class RefusalReason(StrEnum):
    """Why the agent refuses a job; finer than the error code, because the remedies differ."""

    DRAINING = "draining"
    """The agent is stopping."""
    NOT_SERVED = "model_not_served"
    """No healthy backend serves the model."""
    PRICE = "price"
    """No backend serves the model at the price that was offered."""
    FORMAT = "format_not_supported"
    """No backend that serves the model supports the format or the operation."""
    BACKENDS_FULL = "backends_full"
    """Every backend that could run the job is at capacity, over its token limit, or down."""
    AGENT_FULL = "agent_full"
    """`limits.max_concurrent` jobs run."""
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - no secret
    """`limits.max_tokens_per_minute` is used up."""


_CODES: Final = {
    RefusalReason.DRAINING: ErrorCode.DRAINING,
    RefusalReason.NOT_SERVED: ErrorCode.MODEL_NOT_LOADED,
    RefusalReason.PRICE: ErrorCode.MODEL_NOT_LOADED,
    RefusalReason.FORMAT: ErrorCode.FORMAT_NOT_SUPPORTED,
    RefusalReason.BACKENDS_FULL: ErrorCode.OUT_OF_CAPACITY,
    RefusalReason.AGENT_FULL: ErrorCode.OUT_OF_CAPACITY,
    RefusalReason.TOKEN_LIMIT: ErrorCode.OUT_OF_CAPACITY,
}


class Refusal(Struct, frozen=True):
    """Why no backend may execute a job.

    Attributes:
        reason: why.
        message: human-readable.
        retry_after_s: the shortest wait for a token limit; None if no backend waits for one. A
            backend that is at capacity may accept a job sooner.
    """

    reason: RefusalReason
    message: str
    retry_after_s: float | None = None

    @property
    def code(self) -> ErrorCode:
        """The error code of the job's end."""
        return _CODES[self.reason]


def choose_routes(
    wire_format: str,
    operation_name: str,
    routes: Iterable[Route],
    offered: OfferedPrice | None = None,
) -> list[Route] | Refusal:
    """Order the backends that may execute a job: native, then cheap, then the least loaded first.

    Args:
        wire_format: the job's format.
        operation_name: the job's operation; "" is the main operation of the format.
        routes: the healthy backends that serve the job's model.
        offered: the price of the job; None: any price.
    """
    serving = list(routes)
    if not serving:
        return Refusal(RefusalReason.NOT_SERVED, "no backend of this agent serves the model now")
    if offered is not None:
        serving = [
            route for route in serving if route.native or offered.covers(route.price, native=False)
        ]
    if not serving:
        return Refusal(RefusalReason.PRICE, "no backend serves the model at the job's price")
    operation = find_operation(wire_format, operation_name)
    supporting = [route for route in serving if operation in route.operations]
    if not supporting:
        wanted = f"{operation_name!r} in format {wire_format!r}" if operation_name else wire_format
        return Refusal(
            RefusalReason.FORMAT,
            f"no backend that serves the model supports {wanted}",
        )
    free = [route for route in supporting if route.in_flight < route.capacity]
    if not free:
        waits = [route.retry_after_s for route in supporting if route.retry_after_s is not None]
        text = (
            "every backend that supports the request is at capacity, over its token limit, or down"
        )
        return Refusal(RefusalReason.BACKENDS_FULL, text, min(waits, default=None))
    return sorted(free, key=_preference) if len(free) > 1 else free


def _preference(route: Route) -> tuple[bool, int, float, int]:
    """Return the sort key of a route; the least is the best.

    Prices differ only between the passthroughs of an offer, if some have the setting `overflow`.
    """
    cost = 0
    if route.price is not None and not route.native:
        cost = route.price.input_per_1m + route.price.output_per_1m
    return not route.native, cost, route.in_flight / route.capacity, route.order
