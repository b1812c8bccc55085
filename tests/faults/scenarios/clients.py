"""Clients: real HTTP clients that keep every byte they get."""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

from tests.faults.scenarios.numbered_server import DONE, NumberedServer, Order

PATIENCE_S = 24 * 3600.0


@dataclass(eq=False)
class Purchase:
    """One request of one client.

    Attributes:
        order: what it asked for.
        status: the HTTP status; 0: none came.
        data: the body so far.
        broken: the connection broke before the body was complete.
        reading: cleared, the client takes nothing more.
        task: the request.
    """

    order: Order
    status: int = 0
    data: bytearray = field(default_factory=bytearray)
    broken: bool = False
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def done(self) -> Self:
        """Return when it is over."""
        assert self.task is not None
        await self.task
        return self

    @property
    def errors(self) -> int:
        """How many error events, or error bodies, the client got."""
        return bytes(self.data).count(b'"error"')

    def check_complete(self, server: NumberedServer) -> None:
        """Every byte that the server sent, once, from one run."""
        name = self.order.name
        assert self.status == 200, f"{name}: HTTP {self.status}: {bytes(self.data[:300])!r}"
        assert not self.broken, f"{name}: the connection broke after {len(self.data)} bytes"
        run = server.only_run(name)
        assert self.data == run.sent, f"{name}: {_difference(bytes(self.data), bytes(run.sent))}"
        assert run.finished, f"{name}: the server had not finished"
        whole = self.data.endswith(DONE) if self.order.streamed else self.data == self.order.whole()
        assert whole, f"{name}: it is not all"

    def check_not_taken_for_whole(self, server: NumberedServer) -> None:
        """Told once, or a connection that broke off: whoever reads on knows that there is more."""
        if not self.broken:
            self.check_failed_once(server)

    def check_failed_once(self, server: NumberedServer) -> None:
        """A true beginning of what the server sent, then one error."""
        assert self.errors == 1, f"{self.order.name}: {self.errors} errors in {self.tail!r}"
        if self.status == 200:
            before, _, _ = bytes(self.data).partition(b'data: {"error"')
            sent = bytes(server.runs[self.order.name][0].sent)
            assert sent.startswith(before.rstrip(b"\n")), f"{self.order.name}: not what was sent"

    @property
    def tail(self) -> bytes:
        """Its last bytes."""
        return bytes(self.data[-400:])


class Clients:
    """Some clients with connections of their own; an asynchronous context manager.

    Args:
        port: of the coordinator, or of the proxy before it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._purchases: list[Purchase] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=PATIENCE_S, sock_connect=60),
            read_bufsize=16 * 1024,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [purchase.task for purchase in self._purchases if purchase.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def buy(self, order: Order) -> Purchase:
        """Ask for it, and take what comes."""
        purchase = Purchase(order)
        purchase.reading.set()
        purchase.task = asyncio.create_task(self._take(purchase), name=f"client of {order.name}")
        self._purchases.append(purchase)
        return purchase

    async def _take(self, purchase: Purchase) -> None:
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        try:
            async with self._session.post(url, json=purchase.order.request()) as response:
                purchase.status = response.status
                async for piece in response.content.iter_any():
                    purchase.data += piece
                    await purchase.reading.wait()
        except aiohttp.ClientError:
            purchase.broken = True


def _difference(got: bytes, sent: bytes) -> str:
    same = next(
        (at for at, (one, other) in enumerate(zip(got, sent, strict=False)) if one != other),
        min(len(got), len(sent)),
    )
    around = slice(max(0, same - 60), same + 60)
    return (
        f"{len(got)} bytes arrived, {len(sent)} were sent; they differ at {same}: "
        f"{got[around]!r} instead of {sent[around]!r}"
    )
