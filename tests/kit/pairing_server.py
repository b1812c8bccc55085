"""The pairing of a marketplace's HTTP API, after a script: imitates what its agents expect."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from aiohttp import web

PAIR_CODE: Final = "ABCD-EFGH"
POLL_TOKEN: Final = "SECRET-POLL-TOKEN"
HOST_TOKEN: Final = "SECRET-HOST-TOKEN"
PROVIDER_ID: Final = "prov_0123456789"

PENDING: Final = {"status": "pending"}
EXPIRED: Final = {"status": "expired"}
ACTIVE: Final = {
    "status": "active",
    "host_token": HOST_TOKEN,
    "provider_id": PROVIDER_ID,
    "model_config": [
        {
            "model_id": "qwen3:8b",
            "input_per_1m": 30_000,
            "output_per_1m": 60_000,
            "max_concurrent": 6,
        },
        {"model_id": "other", "input_per_1m": 1_000_000, "output_per_1m": 2_000_000},
    ],
}

Answer = Callable[[], web.Response]


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON."""
    return lambda: web.json_response(value, status=status, headers=headers)


def text_answer(body: bytes, status: int = 200) -> Answer:
    """Answer with any body."""
    return lambda: web.Response(body=body, status=status)


def dropped() -> web.Response:
    """Close the connection without an answer."""
    raise ConnectionAbortedError


def issued(valid_s: float = 600.0) -> dict[str, object]:
    """Return the answer to a request for a code."""
    expires_at = datetime.now(UTC) + timedelta(seconds=valid_s)
    return {
        "pair_code": PAIR_CODE,
        "poll_token": POLL_TOKEN,
        "expires_at": expires_at.isoformat().replace("+00:00", "Z"),
    }


class PairingServer:
    """Answers requests on a free loopback port.

    Args:
        polls: the answers to the polls, of which the last one is repeated.
        issue: the answer to each request for a code.

    Attributes:
        issues: the JSON of the requests for a code.
        polled: the JSON of the polls.
        has_polled: set at each poll.
    """

    def __init__(self, *polls: object, issue: object = None) -> None:
        self.issues: list[dict[str, object]] = []
        self.polled: list[dict[str, object]] = []
        self.has_polled = asyncio.Event()
        self._polls = [_answer(one) for one in polls or (PENDING,)]
        self._issue = _answer(issue) if issue is not None else lambda: json_answer(issued())()
        app = web.Application()
        app.router.add_post("/v1/host/pair/issue", self._on_issue)
        app.router.add_post("/v1/host/pair/poll", self._on_poll)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _on_issue(self, request: web.Request) -> web.Response:
        self.issues.append(await request.json())
        return _respond(request, self._issue)

    async def _on_poll(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.polled.append(body)
        self.has_polled.set()
        if body["poll_token"] != POLL_TOKEN:
            return web.json_response({"error": "unknown poll_token"}, status=404)
        answer = self._polls[0] if len(self._polls) == 1 else self._polls.pop(0)
        return _respond(request, answer)


def _answer(one: object) -> Answer:
    return one if callable(one) else json_answer(one)


def _respond(request: web.Request, answer: Answer) -> web.Response:
    try:
        return answer()
    except ConnectionAbortedError:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
