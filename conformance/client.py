"""The kit as an HTTP client of the coordinator under test."""

import asyncio
import io
import json
import socket
from types import TracebackType
from typing import Final, Self

import aiohttp

from provider_agent.conformance.case import NotHeld, Unreachable, require
from provider_agent.conformance.failed_connection import describe
from provider_agent.conformance.peer import ANSWER_S

CHAT_PATH: Final = "/v1/chat/completions"
MODELS_PATH: Final = "/v1/models"

RECEIVE_BUFFER_BYTES: Final = 64 * 1024
"""A small kernel buffer: when the client does not read, the coordinator soon has to pause."""


def chat_body(model_id: str, pad_bytes: int = 0) -> bytes:
    """A streaming chat request with about `pad_bytes` bytes of text."""
    message = {"role": "user", "content": "x" * pad_bytes or "conformance"}
    return json.dumps({"model": model_id, "messages": [message], "stream": True}).encode()


class ClientRequest:
    """One running HTTP request; `answer_s` is how long an answer may take, in seconds."""

    def __init__(self, http: aiohttp.ClientSession, url: str, body: bytes, answer_s: float) -> None:
        self._answer_s = answer_s
        headers = {"Content-Type": "application/json"}
        self._task = asyncio.create_task(
            self._post(http, url, body, headers), name="conformance client"
        )
        self._response: aiohttp.ClientResponse | None = None

    async def _post(
        self, http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        self._response = await http.post(url, data=io.BytesIO(body), headers=headers)
        return self._response

    @property
    def answered(self) -> bool:
        """Whether the response has started or the request has failed."""
        return self._task.done()

    async def response(self) -> aiohttp.ClientResponse:
        """Wait for the head of the response.

        Raises:
            NotHeld: it does not arrive in time, or the connection ends first.
            Unreachable: the API accepts no connection.
        """
        try:
            async with asyncio.timeout(self._answer_s):
                return await asyncio.shield(self._task)
        except TimeoutError:
            observed = f"the client received no response within {self._answer_s:g} s"
            raise NotHeld(observed) from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"cannot reach --submit-url: {describe(error)}") from None
        except aiohttp.ClientError as error:
            raise NotHeld(f"the client's request failed: {type(error).__name__}") from None

    async def read(self, count: int) -> bytes:
        """Read `count` bytes of the response; raises `NotHeld` if they do not arrive in time."""
        response = await self.response()
        data = b""
        try:
            async with asyncio.timeout(self._answer_s):
                while len(data) < count:
                    piece = await response.content.read(count - len(data))
                    require(bool(piece), f"the client's response ended after {len(data)} bytes")
                    data += piece
        except TimeoutError:
            raise NotHeld(f"the client received {len(data)} of {count} bytes") from None
        except aiohttp.ClientError:
            raise NotHeld(f"the client's response broke off after {len(data)} bytes") from None
        return data

    async def read_all(self) -> tuple[bytes, bool]:
        """Read the rest of the response; returns it, and False if the connection was aborted."""
        response = await self.response()
        data = bytearray()
        try:
            async with asyncio.timeout(2 * self._answer_s):
                async for piece in response.content.iter_any():
                    data += piece
        except TimeoutError:
            raise NotHeld(f"the client's response did not end after {len(data)} bytes") from None
        except aiohttp.ClientError:
            return bytes(data), False
        return bytes(data), True

    async def disconnect(self) -> None:
        """Abort the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._response is not None:
            self._response.close()


class Client:
    """Sends requests to the coordinator's API.

    Args:
        submit_url: the base address of the API, with or without `/v1`.
        api_key: the key, sent as a bearer token; "" for none.
        answer_s: how long an answer may take, in seconds.
    """

    def __init__(self, submit_url: str, api_key: str, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._submit_url = submit_url
        self._base_url = submit_url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        self._http = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, socket_factory=_create_socket
            ),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the client is not open")
        return self._http

    async def check_reachable(self) -> None:
        """Check that an HTTP server answers, with any status.

        Raises:
            Unreachable: no HTTP server answers.
        """
        url = self._base_url + MODELS_PATH
        try:
            async with asyncio.timeout(self._answer_s):
                (await self._session.get(url, allow_redirects=False)).close()
        except TimeoutError:
            reason = f"no answer within {self._answer_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            reason = describe(error)
        else:
            return
        raise Unreachable(f"cannot reach --submit-url {self._submit_url}: {reason}")

    def post(self, body: bytes) -> ClientRequest:
        """Start a chat request."""
        url = self._base_url + CHAT_PATH
        return ClientRequest(self._session, url, body, self._answer_s)


def _create_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    result = socket.socket(family, kind, protocol)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    result.setblocking(False)
    return result
