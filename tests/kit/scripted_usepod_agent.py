"""An agent of the Use Pod dialect that a test controls; it knows only JSON."""

import asyncio
import base64
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect

from tests.kit.json_connection import JsonConnection


def encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class UsepodAgent(JsonConnection):
    """An agent that connects when its context is entered.

    Args:
        connect_url: the coordinator's address for agents.
        key: the agent's key; by default a new one.
        enrollment_code: sent in `auth_response`; "" for none.
        models: the ids of the offered models.
        max_concurrent: its limit of jobs.
        authenticates: whether it answers `auth_challenge`.

    Attributes:
        refusal: the reason of `auth_failed`; None if it was admitted.
    """

    def __init__(
        self,
        connect_url: str,
        *,
        key: Ed25519PrivateKey | None = None,
        enrollment_code: str = "",
        models: tuple[str, ...] = ("tiny",),
        max_concurrent: int = 8,
        authenticates: bool = True,
    ) -> None:
        super().__init__()
        self.key = key or Ed25519PrivateKey.generate()
        self.public_key = encode64(self.key.public_key().public_bytes_raw())
        self.refusal: str | None = None
        self._connect_url = connect_url
        self._enrollment_code = enrollment_code
        self._models = models
        self._max_concurrent = max_concurrent
        self._authenticates = authenticates
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._socket = await connect(
            self._connect_url, compression=None, ping_interval=None, max_size=None, proxy=None
        )
        self._reading = asyncio.create_task(self.read())
        if self._authenticates:
            await self._authenticate()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.socket.close()
        assert self._reading is not None
        await self._reading

    async def _authenticate(self) -> None:
        challenge = await self.next("auth_challenge")
        await self.send_auth_response(base64.b64decode(challenge["nonce"]))
        answer = await self.next("auth_ok", "auth_failed")
        if answer["type"] == "auth_failed":
            self.refusal = answer["reason"]
        else:
            await self.send_capabilities()

    async def send_auth_response(self, nonce: bytes) -> None:
        """Send `auth_response` with a signature of `nonce`."""
        code = {"enrollment_code": self._enrollment_code} if self._enrollment_code else {}
        await self.send(
            type="auth_response",
            pubkey=self.public_key,
            signature=encode64(self.key.sign(nonce)),
            agent_version="0.3.3",
            **code,
        )

    async def send_capabilities(self) -> None:
        """Send the offers."""
        offer = {
            "input_per_1m": 500_000,
            "output_per_1m": 750_000,
            "max_concurrent": self._max_concurrent,
            "backend": "vllm",
        }
        await self.send(
            type="capabilities",
            models=[{"model_id": model_id, **offer} for model_id in self._models],
            limits={"max_concurrent_total": self._max_concurrent, "max_tokens_per_minute": 200_000},
            metadata={"agent_version": "0.3.3"},
        )

    async def send_data(self, job_id: str, data: bytes) -> None:
        """Send the next bytes of a response."""
        await self.send(type="job_chunk", job_id=job_id, data=encode64(data))

    async def send_done(self, job_id: str, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """End a job with success."""
        tokens = {"input": input_tokens, "output": output_tokens}
        await self.send(type="job_done", job_id=job_id, tokens=tokens, duration_ms=5)

    async def answer(self, job_id: str, data: bytes) -> None:
        """Send a complete response."""
        await self.send_data(job_id, data)
        await self.send_done(job_id)

    async def send_error(self, job_id: str, code: str) -> None:
        """End a job with an error."""
        await self.send(
            type="job_error", job_id=job_id, error_code=code, message="scripted", tokens_emitted=0
        )

    async def next_job(self) -> str:
        """Wait for the next job; return its id."""
        return str((await self.next("job"))["job_id"])
