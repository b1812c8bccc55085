"""Which backends may run a job, best first. A pure decision."""

from collections.abc import Iterable

from msgspec import Struct

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import find_operation


class Route(Struct, frozen=True):
    """One backend that serves a model now.

    Attributes:
        backend_id: which backend.
        order: its place in the configuration; the last tie-break, so that equals are predictable.
        native: on the operator's own hardware.
        operations: what it natively speaks for this model.
        in_flight: jobs of this agent on it now.
        capacity: jobs of this agent it takes at once; 0: none now.
        retry_after_s: when it will take jobs again that it does not take now; None: nobody knows.
    """

    backend_id: str
    order: int
    native: bool
    operations: frozenset[str]
    in_flight: int
    capacity: int
    retry_after_s: float | None = None


class Refusal(Struct, frozen=True):
    """Why no backend may run a job.

    Attributes:
        code: of the error registry.
        message: for people.
        retry_after_s: when there may be room again; None: nobody knows.
    """

    code: ErrorCode
    message: str
    retry_after_s: float | None = None


def choose_routes(
    wire_format: str, operation_name: str, routes: Iterable[Route]
) -> list[Route] | Refusal:
    """Order the backends that may run a job: local before remote, then least loaded.

    Args:
        wire_format: the job's format.
        operation_name: the job's operation; "" is the format's main one.
        routes: the healthy backends that serve the job's model.
    """
    serving = list(routes)
    if not serving:
        return Refusal(ErrorCode.MODEL_NOT_LOADED, "no backend of this agent serves the model now")
    operation = find_operation(wire_format, operation_name)
    speaking = [route for route in serving if operation in route.operations]
    if not speaking:
        wanted = f"{operation_name!r} in format {wire_format!r}" if operation_name else wire_format
        return Refusal(
            ErrorCode.FORMAT_NOT_SUPPORTED, f"no backend natively speaks {wanted} for the model"
        )
    free = [route for route in speaking if route.in_flight < route.capacity]
    if not free:
        waits = [route.retry_after_s for route in speaking if route.retry_after_s is not None]
        text = "every backend of the model is fully used"
        return Refusal(ErrorCode.OUT_OF_CAPACITY, text, min(waits, default=None))
    return sorted(
        free, key=lambda route: (not route.native, route.in_flight / route.capacity, route.order)
    )
