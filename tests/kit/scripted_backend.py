"""A backend that a test controls step by step."""

import asyncio
from typing import ClassVar, Literal

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendSettings,
    BackendTimeout,
    Job,
    JobSink,
    Operation,
    ResponseOutcome,
    ServerLoad,
    Usage,
)

CHAT_AND_MESSAGES = frozenset({Operation.CHAT, Operation.MESSAGES})


def model(
    model_id: str = "m",
    *,
    native: bool = True,
    operations: frozenset[Operation] = CHAT_AND_MESSAGES,
    context_window: int | None = 4096,
    prices: tuple[int, int] | None = None,
    withheld: str = "",
) -> BackendModel:
    return BackendModel(
        model_id=model_id,
        context_window=context_window,
        native=native,
        operations=operations,
        upstream_id=model_id,
        input_price_per_1m=prices[0] if prices else None,
        output_price_per_1m=prices[1] if prices else None,
        withheld=withheld,
    )


class ScriptedRun:
    """One call of `execute`, and the `FlowControl` of its response.

    Attributes:
        outcome: ends `execute` when it has a result or an exception.
        reported: the outcome that the sink receives at the end of a response that has started;
            None: the sink receives no outcome, which violates the contract of an adapter.
        started: whether `start` was called.
        cancelled: set when `execute` is cancelled.
        paused: whether the sink has paused the response.
        pauses: how often the sink paused the response.
        resumed: set when the sink resumes the response.
    """

    def __init__(self, job: Job, sink: JobSink) -> None:
        self.job = job
        self.sink = sink
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reported: ResponseOutcome | None = ResponseOutcome()
        self.started = False
        self.cancelled = asyncio.Event()
        self.paused = False
        self.pauses = 0
        self.resumed = asyncio.Event()

    def pause_reading(self) -> None:
        self.paused = True
        self.pauses += 1
        self.resumed.clear()

    def resume_reading(self) -> None:
        self.paused = False
        self.resumed.set()

    def start(
        self, status: int = 200, content_type: str = "text/event-stream", **headers: str
    ) -> None:
        self.sink.started(
            status,
            content_type,
            self,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        self.started = True

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sink.send_chunk(piece)

    def finish(self, input_tokens: int | None = 3, output_tokens: int | None = 4) -> None:
        self.reported = ResponseOutcome(Usage(input_tokens, output_tokens))
        self.outcome.set_result(None)

    def fail(self, error: BaseException) -> None:
        self.outcome.set_exception(error)

    def answer(self, *pieces: bytes) -> None:
        self.start()
        self.send(*pieces)
        self.finish()


class ScriptedBackend(Backend):
    """A backend without a server: a test controls each call of `execute` as a `ScriptedRun`.

    `next_run` returns the calls in order.

    Attributes:
        reported_health: the result of `health`, or the exception that it raises.
        reported_models: the result of `list_models`, or the exception that it raises.
        reported_load: the result of `load`, or the exception that it raises.
        gate: `health` waits until this event is set; it is set at first.
        checked_at: the loop times of all calls of `health`.
        reported_liveness: None: the backend has no liveness check; "alive"; "hang"; or the
            exception that `check_liveness` raises.
        liveness_checked_at: the loop times of all calls of `check_liveness`.
        load_calls: the number of calls of `load` so far.
        error_on_cancel: raised by a cancelled `execute` instead of `CancelledError`.
        generation: None: `generate_token` succeeds; an error that it raises; or "hang".
        generated: the models of all calls of `generate_token` so far.
        waiting_since_s: the value of `waiting_since`.
        ended: the errors passed to `end_waiting_jobs`.
        hold_cancel: a cancelled `execute` waits for this event; if None, it stops at once.
        runs: all calls of `execute` so far.
    """

    kind: ClassVar[str] = "scripted"

    def __init__(
        self,
        backend_id: str = "scripted:http://b",
        *models: BackendModel,
        max_concurrent: int = 8,
    ) -> None:
        super().__init__(BackendSettings(kind=self.kind, max_concurrent=max_concurrent))
        self.id = backend_id
        self.reported_health: BackendHealth | BaseException = BackendHealth(True, 1.0)
        self.reported_models: list[BackendModel] | BaseException = list(models) or [model()]
        self.reported_load: ServerLoad | BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.checked_at: list[float] = []
        self.reported_liveness: Literal["alive", "hang"] | Exception | None = None
        self.liveness_checked_at: list[float] = []
        self.load_calls = 0
        self.error_on_cancel: Exception | None = None
        self.generation: BackendError | Literal["hang"] | None = None
        self.generated: list[str] = []
        self.waiting_since_s: float | None = 0.0
        self.ended: list[BackendError] = []
        self.hold_cancel: asyncio.Event | None = None
        self.closed = False
        self.runs: list[ScriptedRun] = []
        self._new_runs: asyncio.Queue[ScriptedRun] = asyncio.Queue()

    @property
    def checks(self) -> int:
        return len(self.checked_at)

    async def health(self) -> BackendHealth:
        self.checked_at.append(asyncio.get_running_loop().time())
        await self.gate.wait()
        if isinstance(self.reported_health, BaseException):
            raise self.reported_health
        return self.reported_health

    @property
    def checks_liveness(self) -> bool:
        return self.reported_liveness is not None

    async def check_liveness(self) -> None:
        self.liveness_checked_at.append(asyncio.get_running_loop().time())
        if self.reported_liveness == "hang":
            await asyncio.get_running_loop().create_future()
        if isinstance(self.reported_liveness, Exception):
            raise self.reported_liveness

    async def list_models(self) -> list[BackendModel]:
        if isinstance(self.reported_models, BaseException):
            raise self.reported_models
        return list(self.reported_models)

    async def load(self) -> ServerLoad | None:
        self.load_calls += 1
        if isinstance(self.reported_load, BaseException):
            raise self.reported_load
        return self.reported_load

    async def generate_token(self, model: BackendModel) -> None:
        self.generated.append(model.model_id)
        if self.generation == "hang":
            await asyncio.sleep(20)
            raise BackendTimeout("the server did not complete its response in time")
        if self.generation is not None:
            raise self.generation

    def end_waiting_jobs(self, error: BackendError) -> None:
        self.ended.append(error)

    @property
    def waiting_since(self) -> float | None:
        return self.waiting_since_s

    async def execute(self, job: Job, sink: JobSink) -> None:
        run = ScriptedRun(job, sink)
        self.runs.append(run)
        self._new_runs.put_nowait(run)
        try:
            await run.outcome
        except asyncio.CancelledError:
            run.cancelled.set()
            if self.hold_cancel is not None:
                await self.hold_cancel.wait()
            if self.error_on_cancel is not None:
                raise self.error_on_cancel from None
            raise
        finally:
            if run.started and run.reported is not None:
                sink.response_ended(run.reported)

    async def next_run(self) -> ScriptedRun:
        return await self._new_runs.get()

    async def close(self) -> None:
        self.closed = True
