"""Clients that never rest: real HTTP clients, some of which leave, pause, or stop reading."""

import asyncio
import random
from collections.abc import Callable
from enum import Enum, auto
from itertools import count

import aiohttp

from provider_agent.adapters.base import BackendSettings, FlowControl
from provider_agent.adapters.servers.echo import MODEL_ID as ECHO_MODEL
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.backends.failover import MAX_ATTEMPTS
from tests.kit.jobs import new_job
from tests.soak.order import Order
from tests.soak.server import SoakServer
from tests.soak.tally import Tally
from tests.soak.verdict import End, Outcome, judge, judge_part

PATIENCE_S = 60.0
"""Longer than every clock of the coordinator's: a request that takes so long hangs."""

RUNS_PER_JOB = 2 * MAX_ATTEMPTS
"""An agent tries so often, and its HTTP client once more when a kept connection was dead."""


class Manner(Enum):
    """How a client takes its answer."""

    STEADY = auto()
    LEAVES = auto()
    PAUSES = auto()
    STOPS = auto()


class Clients:
    """Some clients, each with one request after the other until told to stop.

    Args:
        number: of clients.
        dice: what they ask for, and how they take it.
        url: of the coordinator, now.
        server: counts how often their jobs ran.
        attempts: agents that the coordinator tries for one request.
        tally: told of every end.
    """

    def __init__(
        self,
        number: int,
        dice: random.Random,
        *,
        url: Callable[[], str],
        server: SoakServer,
        attempts: int,
        tally: Tally,
    ) -> None:
        self._number = number
        self._dice = dice
        self._url = url
        self._server = server
        self._attempts = attempts
        self._tally = tally
        self._names = count()

    async def run(self, stopping: asyncio.Event) -> None:
        """Buy until told to stop; returns when every request is over."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, read_bufsize=16 * 1024
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for n in range(self._number):
                dice = random.Random(self._dice.random())
                buying = self._keep_buying(session, dice, stopping)
                group.create_task(buying, name=f"client {n}")

    async def _keep_buying(
        self, session: aiohttp.ClientSession, dice: random.Random, stopping: asyncio.Event
    ) -> None:
        while not stopping.is_set():
            order = Order.random(f"o{next(self._names)}", dice)
            expected = await _expected(order)
            manner = dice.choices(list(Manner), [80, 8, 7, 5])[0]
            outcome = await self._buy(session, order, expected, manner, dice)
            outcome = self._runs_judged(order, outcome)
            self._tally.ended(order, outcome)
            pause_s = 2.0 if outcome.end in (End.FAILED, End.BROKEN) else 0.02
            await asyncio.sleep(pause_s * dice.random())

    async def _buy(
        self,
        session: aiohttp.ClientSession,
        order: Order,
        expected: bytes,
        manner: Manner,
        dice: random.Random,
    ) -> Outcome:
        taken = _Taken(manner, dice)
        url = self._url() + order.operation.path
        try:
            async with asyncio.timeout(PATIENCE_S):
                async with session.post(
                    url, data=order.body(), headers={"Content-Type": "application/json"}
                ) as response:
                    await taken.take(response)
        except TimeoutError:
            if manner is not Manner.STOPS:
                return Outcome(End.WRONG, f"no end within {PATIENCE_S:.0f} s: {taken}")
            outcome = Outcome(End.WRONG, "a client that takes nothing is never cut off")
        except aiohttp.ClientError as error:
            outcome = Outcome(End.BROKEN, type(error).__name__)
        else:
            if not taken.left:
                return judge(order, expected, taken.status, bytes(taken.body))
            outcome = Outcome(End.LEFT)
        return judge_part(expected, taken.status, bytes(taken.body)) or outcome

    def _runs_judged(self, order: Order, outcome: Outcome) -> Outcome:
        runs = self._server.runs_of(order)
        if len(runs) > self._attempts:
            return Outcome(End.WRONG, f"{order.name} became {len(runs)} jobs")
        if runs and max(runs.values()) > RUNS_PER_JOB:
            return Outcome(End.WRONG, f"a job of {order.name} ran {max(runs.values())} times")
        if order.model != ECHO_MODEL and outcome.end is End.COMPLETE and not runs:
            return Outcome(End.WRONG, f"{order.name} was answered by nobody")
        return outcome


class _Taken:
    """What a client has got so far."""

    def __init__(self, manner: Manner, dice: random.Random) -> None:
        self.status = 0
        self.body = bytearray()
        self.left = False
        self._manner = manner
        self._after = int(dice.choice([0, 500, 5000, 50_000]) * dice.random())
        self._pause_s = dice.uniform(0.1, 2.0)

    def __repr__(self) -> str:
        return f"<HTTP {self.status}, {len(self.body)} bytes, {self._manner.name}>"

    async def take(self, response: aiohttp.ClientResponse) -> None:
        """Read to the end, or leave, or stop for good: then only the coordinator can end it."""
        self.status = response.status
        async for piece in response.content.iter_any():
            self.body += piece
            if len(self.body) < self._after or self._manner is Manner.STEADY:
                continue
            if self._manner is Manner.LEAVES:
                self.left = True
                response.close()
                return
            if self._manner is Manner.PAUSES:
                self._manner = Manner.STEADY
                await asyncio.sleep(self._pause_s)
            elif self._manner is Manner.STOPS:
                await asyncio.sleep(15.0)  # cut off meanwhile, or everything fitted into buffers
                self._manner = Manner.STEADY


class _Bytes:
    def __init__(self) -> None:
        self.received = bytearray()

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        pass

    def send_chunk(self, data: bytes) -> None:
        self.received += data


async def _expected(order: Order) -> bytes:
    """Every byte of the right answer."""
    if order.model != ECHO_MODEL:
        return b"".join(order.answer())
    sink = _Bytes()
    job = new_job(
        ECHO_MODEL,
        wire_format=order.operation.wire_format.value,
        operation=order.operation.value,
        request=order.body(),
    )
    await EchoBackend(BackendSettings(kind="echo")).execute(job, sink)
    return bytes(sink.received)
