"""The record of one execution of a job on one backend."""

from collections.abc import Callable

from provider_agent.adapters.base import Backend, BackendError
from provider_agent.agent.backends.admission import AdmissionControl, Check
from provider_agent.agent.backends.model_use import JobTiming


class Attempt:
    """The record of one execution of a job on one backend.

    The first call of `succeeded`, `failed` or `abandoned` settles the attempt; further calls do
    nothing. The code that ends a job can therefore always call `abandoned`.

    Args:
        backend: executes the job.
        admission: the backend's admission control; records the start and the outcome.
        model_id: the model of the job.
        on_settled: called once, with what to check now.
        on_timing: called with the timing of a completed stream.

    Attributes:
        backend: executes the job.
        report_timing: the argument `on_timing`.
    """

    __slots__ = ("_admission", "_admitted", "_on_settled", "_settled", "backend", "report_timing")

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionControl,
        model_id: str,
        on_settled: Callable[[Check], None],
        on_timing: Callable[[JobTiming], None] = lambda _: None,
    ) -> None:
        self.backend = backend
        self._admission = admission
        self._on_settled = on_settled
        self.report_timing = on_timing
        self._admitted = admission.start(model_id)
        self._settled = False

    def __repr__(self) -> str:
        state = "settled" if self._settled else "running"
        return f"<Attempt on {self.backend.id} {state}>"

    def responded(self) -> None:
        """Record that the response has started with output."""
        if not self._settled:
            self._admission.responded(self._admitted)

    def succeeded(self, usage_tokens: int) -> None:
        """Record that the job completed; `usage_tokens` is the sum of input and output."""
        if self._settle():
            self._admission.consume(usage_tokens)
            self._admission.succeeded(self._admitted)
            self._on_settled(Check.NOTHING)

    def failed(self, error: BackendError, usage_tokens: int = 0, request: int = 0) -> None:
        """Record that the job failed on the backend.

        Args:
            error: why it failed.
            usage_tokens: the sum of input and output that it used.
            request: the hash of its request.
        """
        if self._settle():
            self._admission.consume(usage_tokens)
            self._on_settled(self._admission.failed(self._admitted, error, request))

    def abandoned(self, usage_tokens: int = 0) -> None:
        """Record that the job was stopped, or failed by a defect of the agent or its adapter.

        Neither is information about the backend, but the job may have used `usage_tokens`.
        """
        if self._settle():
            self._admission.consume(usage_tokens)
            self._admission.abandoned(self._admitted)
            self._on_settled(Check.NOTHING)

    def _settle(self) -> bool:
        """Settle the attempt; return False if it was settled before."""
        first = not self._settled
        self._settled = True
        return first
