"""The record of one execution of a job on one backend."""

from collections.abc import Callable

from provider_agent.adapters.base import Backend, BackendError
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.agent.backends.model_use import JobTiming


class Attempt:
    """The record of one execution of a job on one backend.

    The first call of `succeeded`, `failed` or `abandoned` settles the attempt; further calls do
    nothing. The code that ends a job can therefore always call `abandoned`.

    Args:
        backend: executes the job.
        admission: the backend's admission control; records the start and the outcome.
        on_settled: called once, with whether the backend's health should be checked at once.
        on_timing: called with the timing of a completed stream.

    Attributes:
        backend: executes the job.
        report_timing: the argument `on_timing`.
    """

    __slots__ = ("_admission", "_generation", "_on_settled", "_settled", "backend", "report_timing")

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionControl,
        on_settled: Callable[[bool], None],
        on_timing: Callable[[JobTiming], None] = lambda _: None,
    ) -> None:
        self.backend = backend
        self._admission = admission
        self._on_settled = on_settled
        self.report_timing = on_timing
        self._generation = admission.start()
        self._settled = False

    def __repr__(self) -> str:
        state = "settled" if self._settled else "running"
        return f"<Attempt on {self.backend.id} {state}>"

    def succeeded(self, usage_tokens: int) -> None:
        """Record that the job completed; `usage_tokens` is the sum of input and output."""
        if self._settle():
            self._admission.consume(usage_tokens)
            self._admission.succeeded(self._generation)
            self._on_settled(False)

    def failed(self, error: BackendError, usage_tokens: int = 0) -> None:
        """Record that the job failed on the backend, after it used `usage_tokens`."""
        if self._settle():
            self._admission.consume(usage_tokens)
            self._on_settled(self._admission.failed(self._generation, error))

    def abandoned(self, usage_tokens: int = 0) -> None:
        """Record that the job was stopped, or failed by a defect of the agent or its adapter.

        Neither is information about the backend, but the job may have used `usage_tokens`.
        """
        if self._settle():
            self._admission.consume(usage_tokens)
            self._admission.abandoned(self._generation)
            self._on_settled(False)

    def _settle(self) -> bool:
        """Settle the attempt; return False if it was settled before."""
        first = not self._settled
        self._settled = True
        return first
