"""The clients of `bench.cluster_fleet`: each sends one request after another."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp

REQUEST_TIMEOUT_S: Final = 60.0
RETRY_S: Final = 0.1


class FleetClients:
    """Sends requests to random coordinators for random models, and checks every response.

    Args:
        session: sends the requests.
        choose_port: returns the port of a coordinator.
        models: the models that the fleet offers.
        expected: the body of every response.

    Attributes:
        answered: complete responses.
        failed: requests with another outcome.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        choose_port: Callable[[], int],
        models: Sequence[str],
        expected: bytes,
    ) -> None:
        self.answered = 0
        self.failed = 0
        self._session = session
        self._choose_port = choose_port
        self._models = models
        self._expected = expected

    def __repr__(self) -> str:
        return f"<FleetClients answered={self.answered} failed={self.failed}>"

    async def run_one(self) -> None:
        """Send one request after another until the task is cancelled."""
        while True:
            if await self._ask():
                self.answered += 1
            else:
                self.failed += 1
                await asyncio.sleep(RETRY_S)

    async def _ask(self) -> bool:
        url = f"http://127.0.0.1:{self._choose_port()}/v1/chat/completions"
        request = {"model": random.choice(self._models), "stream": True, "messages": []}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                response = await self._session.post(url, json=request)
                async with response:
                    return response.status == 200 and await response.read() == self._expected
        except (aiohttp.ClientError, TimeoutError):
            return False
