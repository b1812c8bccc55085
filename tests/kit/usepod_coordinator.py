"""A coordinator of the Use Pod dialect that a test controls; it knows only JSON."""

import asyncio
import base64
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from websockets.asyncio.server import Server, ServerConnection, serve

from provider_agent.protocol.limits import CONNECT_PATH
from tests.kit.json_connection import JsonConnection, Message

NONCE = bytes(range(32))
ENDS = ("job_done", "job_error")


class UsepodConnection(JsonConnection):
    """One connection of an agent."""

    def of_job(self, job_id: str) -> list[Message]:
        """Return all received messages of a job."""
        return [message for message in self.messages if message.get("job_id") == job_id]

    def data(self, job_id: str) -> bytes:
        """Return the received bytes of a job's response."""
        pieces = (one["data"] for one in self.of_job(job_id) if one["type"] == "job_chunk")
        return b"".join(map(base64.b64decode, pieces))

    async def end(self, job_id: str) -> Message:
        """Wait for the end of a job."""
        return await self.next(*ENDS, job_id=job_id)

    async def wait_for_bytes(self, job_id: str, count: int) -> bytes:
        """Wait for `count` bytes of a job's response; return all received bytes."""
        while len(data := self.data(job_id)) < count:
            await self.change(f"{count} bytes")
        return data

    async def send_job(self, job_id: str, model_id: str, **fields: object) -> None:
        """Send a chat job; `fields` replace or add fields of the message."""
        request = {"messages": [{"role": "user", "content": "hello"}]}
        job = {"type": "job", "job_id": job_id, "model_id": model_id, "request": request}
        await self.send(**(job | fields))


class UsepodCoordinator:
    """Listens while its `async with` block runs; `next_connection` returns the connections.

    Attributes:
        provider_id: what it sends in `auth_ok`.
        refusal: the reason of `auth_failed`; None: it admits every agent.
        upgrades: the headers of every upgrade request.
        dialed_at: the loop times of these requests.
        cuts_before_auth: how many of the next connections it cuts before `auth_challenge`.
    """

    def __init__(self) -> None:
        self.provider_id = "prov_1"
        self.refusal: str | None = None
        self.upgrades: list[dict[str, str]] = []
        self.dialed_at: list[float] = []
        self.cuts_before_auth = 0
        self._connections: asyncio.Queue[UsepodConnection] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}{CONNECT_PATH}"

    async def next_connection(self) -> UsepodConnection:
        """Wait for the next connection that sends `auth_challenge`."""
        return await self._connections.get()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=1
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.upgrades.append(
            {name.lower(): value for name, value in socket.request.headers.items()}
        )
        self.dialed_at.append(asyncio.get_running_loop().time())
        if self.cuts_before_auth:
            self.cuts_before_auth -= 1
            socket.transport.abort()
            return
        connection = UsepodConnection(socket)
        reading = asyncio.create_task(connection.read())
        try:
            await connection.send(type="auth_challenge", nonce=base64.b64encode(NONCE).decode())
            response = await connection.next("auth_response")
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(response["pubkey"]))
            key.verify(base64.b64decode(response["signature"]), NONCE)
            if self.refusal is not None:
                await connection.send(type="auth_failed", reason=self.refusal)
            else:
                await connection.send(type="auth_ok", provider_id=self.provider_id)
            self._connections.put_nowait(connection)
            await reading
        finally:
            reading.cancel()
