"""HTTP clients that send one request after the other, and check every response.

Some of them disconnect, pause, or stop reading.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

import aiohttp

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.servers.echo import MODEL_ID as ECHO_MODEL
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.backends.failover import MAX_ATTEMPTS
from tests.kit.jobs import new_job
from tests.kit.sink import CollectingSink
from tests.soak.counts import Counts
from tests.soak.outcome import Outcome, OutcomeKind, check_partial_response, check_response
from tests.soak.random_request import SHAPES, RandomRequest, Shape
from tests.soak.server import SoakServer

log = logging.getLogger(__name__)

STOPS_READING_S = 15.0
"""Longer than `SETTINGS.stalled_client_s`, after which the coordinator disconnects the client."""

MAX_RUNS_PER_JOB = 2 * MAX_ATTEMPTS
"""Each attempt may run twice: the agent repeats a request if a kept-alive connection was closed."""


class ClientBehavior(Enum):
    """How a client reads its response."""

    READS = auto()
    DISCONNECTS = auto()
    PAUSES = auto()
    STOPS_READING = auto()


BEHAVIOR_WEIGHTS = (
    (ClientBehavior.READS, 80),
    (ClientBehavior.DISCONNECTS, 8),
    (ClientBehavior.PAUSES, 7),
    (ClientBehavior.STOPS_READING, 5),
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients do, and what they may expect.

    Attributes:
        clients: the number of clients.
        attempts: the most agents that the coordinator tries for one request.
        runs_per_job: the most runs of one job at the server.
        timeout_s: longer than every timeout of the coordinator. A request that takes longer is a
            defect.
        keep_alive: whether a client uses a connection again.
        behaviors: how often clients behave in each way.
        shapes: the sizes of responses.
    """

    clients: int
    attempts: int
    runs_per_job: int = MAX_RUNS_PER_JOB
    timeout_s: float = 60.0
    keep_alive: bool = True
    behaviors: Sequence[tuple[ClientBehavior, int]] = BEHAVIOR_WEIGHTS
    shapes: Sequence[Shape] = SHAPES


class Clients:
    """Clients that run at the same time, each with one request after the other.

    Args:
        load: what they do.
        rng: chooses requests and behaviors.
        url: returns the coordinator's current URL.
        server: counts the runs of the jobs.
        counts: records every outcome.
    """

    def __init__(
        self,
        load: Load,
        rng: random.Random,
        *,
        url: Callable[[], str],
        server: SoakServer,
        counts: Counts,
    ) -> None:
        self._load = load
        self._rng = rng
        self._url = url
        self._server = server
        self._counts = counts
        self._names = count()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send requests until `stopping` is set; return when the last one has ended."""
        connector = (
            aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
            if self._load.keep_alive
            else aiohttp.TCPConnector(limit=0, force_close=True)
        )
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, read_bufsize=16 * 1024
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for n in range(self._load.clients):
                rng = random.Random(self._rng.random())
                group.create_task(self._run_client(session, rng, stopping), name=f"client {n}")

    async def _run_client(
        self, session: aiohttp.ClientSession, rng: random.Random, stopping: asyncio.Event
    ) -> None:
        while not stopping.is_set():
            request = RandomRequest.random(f"o{next(self._names)}", rng, self._load.shapes)
            expected = await _expected_response(request)
            behaviors, weights = zip(*self._load.behaviors, strict=True)
            behavior = rng.choices(behaviors, weights)[0]
            outcome = await self._send(session, request, expected, _ResponseReader(behavior, rng))
            outcome = self._check_runs(request, outcome)
            self._counts.request_ended(request, outcome)
            if outcome.kind not in (OutcomeKind.COMPLETE, OutcomeKind.LEFT):
                log.warning("%s %s: %s", outcome.kind, outcome.detail, request)
            pause_s = 2.0 if outcome.kind in (OutcomeKind.FAILED, OutcomeKind.BROKEN) else 0.02
            await asyncio.sleep(pause_s * rng.random())

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: RandomRequest,
        expected: bytes,
        reader: "_ResponseReader",
    ) -> Outcome:
        url = self._url() + request.operation.path
        try:
            async with asyncio.timeout(self._load.timeout_s):
                async with session.post(
                    url, data=request.body(), headers={"Content-Type": "application/json"}
                ) as response:
                    await reader.read(response)
        except TimeoutError:
            return Outcome(
                OutcomeKind.WRONG, f"no end within {self._load.timeout_s:.0f} s: {reader}"
            )
        except aiohttp.ClientError as error:
            outcome = Outcome(OutcomeKind.BROKEN, type(error).__name__)
        else:
            if not reader.disconnected:
                return check_response(request, expected, reader.status, bytes(reader.body))
            outcome = Outcome(OutcomeKind.LEFT)
        wrong = check_partial_response(expected, reader.status, bytes(reader.body))
        return wrong or outcome

    def _check_runs(self, request: RandomRequest, outcome: Outcome) -> Outcome:
        """Check how often the server ran the request's jobs."""
        runs = self._server.runs_of(request)
        if len(runs) > self._load.attempts:
            return Outcome(OutcomeKind.WRONG, f"{request.name} became {len(runs)} jobs")
        if runs and max(runs.values()) > self._load.runs_per_job:
            return Outcome(
                OutcomeKind.WRONG, f"a job of {request.name} ran {max(runs.values())} times"
            )
        if request.model != ECHO_MODEL and outcome.kind is OutcomeKind.COMPLETE and not runs:
            return Outcome(OutcomeKind.WRONG, f"{request.name} was answered without a run")
        return outcome


class _ResponseReader:
    """Reads one response with a given `ClientBehavior`."""

    def __init__(self, behavior: ClientBehavior, rng: random.Random) -> None:
        self.status = 0
        self.body = bytearray()
        self.disconnected = False
        self._behavior = behavior
        self._after_bytes = int(rng.choice([0, 500, 5000, 50_000]) * rng.random())
        self._pause_s = rng.uniform(0.1, 2.0)

    def __repr__(self) -> str:
        return f"<HTTP {self.status}, {len(self.body)} bytes, {self._behavior.name}>"

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read the response to its end; once, after some bytes, do what the behavior says."""
        self.status = response.status
        async for piece in response.content.iter_any():
            self.body += piece
            if len(self.body) < self._after_bytes:
                continue
            behavior, self._behavior = self._behavior, ClientBehavior.READS
            if behavior is ClientBehavior.DISCONNECTS:
                self.disconnected = True
                response.close()
                return
            if behavior is ClientBehavior.PAUSES:
                await asyncio.sleep(self._pause_s)
            elif behavior is ClientBehavior.STOPS_READING:
                # Meanwhile the coordinator disconnects, unless buffers hold the response's rest.
                await asyncio.sleep(STOPS_READING_S)


async def _expected_response(request: RandomRequest) -> bytes:
    """Return the bytes of the correct response."""
    if request.model != ECHO_MODEL:
        return b"".join(request.response())
    sink = CollectingSink()
    job = new_job(
        ECHO_MODEL,
        wire_format=request.operation.wire_format.value,
        operation=request.operation.value,
        request=request.body(),
    )
    await EchoBackend(BackendSettings(kind="echo")).execute(job, sink)
    return bytes(sink.data)
