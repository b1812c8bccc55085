"""What a coordinator does about somebody who dials it and is no agent, or another one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from provider_agent.agent.service import EXIT_REFUSED
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    AgentFrame,
    CoordinatorFrame,
    Draining,
    Hello,
    LiveJob,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import (
    CONNECT_PATH,
    MAX_LIVE_JOBS,
    MIB,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
    SUBPROTOCOL,
)
from provider_agent.protocol.session import AgentSession, State
from tests.kit.agent_config import agent_config
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.hostile_harness import task_names
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator

USUAL = CoordinatorSettings(port=0, drain_s=0)
IMPATIENT = replace(USUAL, handshake_timeout_s=1.0)
BUSY = replace(USUAL, heartbeat_ms=100)


class Dialler:
    """A bare connection to the coordinator, with a key of its own."""

    def __init__(self, coordinator: Coordinator, socket: ClientConnection) -> None:
        self.coordinator = coordinator
        self.socket = socket
        self.key = Ed25519PrivateKey.generate()
        parts = urlsplit(coordinator.connect_url)
        self.authority = canonical_authority(parts.scheme, parts.hostname or "", parts.port)

    async def read(self) -> list[CoordinatorFrame]:
        message = await self.socket.recv()
        return VERSION_1.decode_from_coordinator(message, 32 * MIB).frames

    async def send(self, *frames: AgentFrame) -> None:
        await self.socket.send(VERSION_1.encode(frames))

    async def hello(self, authority: str | None = None, **odd: object) -> Hello:
        """What a good agent would say, changed."""
        session = AgentSession(
            authority=authority or self.authority,
            public_key=self.key.public_key().public_bytes_raw(),
            sign=self.key.sign,
            agent_version="hostile",
        )
        for frame in await self.read():
            session.receive(frame)
        assert session.state is State.GREETING
        (hello,) = session.to_send
        assert isinstance(hello, Hello)
        return replace(hello, **odd)

    async def answer(self) -> CoordinatorFrame:
        (frame,) = await self.read()
        return frame


@asynccontextmanager
async def dialled(coordinator: Coordinator) -> AsyncIterator[Dialler]:
    async with connect(
        coordinator.connect_url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None
    ) as socket:
        yield Dialler(coordinator, socket)


class Visit(Struct, frozen=True):
    """What somebody does from the open socket on.

    Attributes:
        name: the row of the table in docs/protocol.md.
        act: does it.
        close_code: what the coordinator closes with; None: it is a new agent like any other.
        settings: of the coordinator.
    """

    name: str
    act: Callable[[Dialler], Awaitable[None]]
    close_code: int | None
    settings: CoordinatorSettings = USUAL


async def says_nothing(dialler: Dialler) -> None:
    await dialler.read()


async def falls_silent(dialler: Dialler) -> None:
    await dialler.send(await dialler.hello())
    assert isinstance(await dialler.answer(), Welcome)


async def begins_elsewhere(dialler: Dialler) -> None:
    await dialler.send(Draining(1))


async def signs_for_another(dialler: Dialler) -> None:
    await dialler.send(await dialler.hello("attacker.example:443"))
    rejected = await dialler.answer()
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.retry_after_ms) == ("bad_signature", None)


async def takes_anothers_key(dialler: Dialler) -> None:
    async with ScriptedAgent(dialler.coordinator.connect_url) as agent:
        await dialler.send(await dialler.hello(public_key=agent.public_key))
        rejected = await dialler.answer()
        assert isinstance(rejected, Rejected)
        assert rejected.code == "bad_signature"
        assert not agent.closed.is_set()


async def offers_strange_jobs(dialler: Dialler) -> None:
    jobs = [LiveJob(number.to_bytes(16, "big"), 9, 3) for number in range(MAX_LIVE_JOBS)]
    await dialler.send(await dialler.hello(session_id=bytes(16), live_jobs=jobs))
    welcome = await dialler.answer()
    assert isinstance(welcome, Welcome)
    assert welcome.resumed == {}


async def offers_too_many_jobs(dialler: Dialler) -> None:
    jobs = [LiveJob(bytes(16), 0, 0)] * (MAX_LIVE_JOBS + 1)
    await dialler.send(await dialler.hello(live_jobs=jobs))


async def names_anothers_session(dialler: Dialler) -> None:
    async with ScriptedAgent(dialler.coordinator.connect_url) as agent:
        assert agent.session.welcome is not None
        theirs = agent.session.welcome.session_id
        await dialler.send(await dialler.hello(session_id=theirs))
        welcome = await dialler.answer()
        assert isinstance(welcome, Welcome)
        assert welcome.session_id != theirs
        assert not agent.closed.is_set()


async def begins_big(dialler: Dialler) -> None:
    await dialler.socket.send(bytes(MIN_MESSAGE_TO_COORDINATOR_BYTES + 1))


VISITS = [
    Visit("nothing after the upgrade", says_nothing, 1008, IMPATIENT),
    Visit("nothing for three heartbeats", falls_silent, 1008, BUSY),
    Visit("another frame before `Hello`", begins_elsewhere, 1002),
    Visit("a message over 1048576 bytes before `Welcome`", begins_big, 1009),
    Visit("`Hello` signed for another address", signs_for_another, 1008),
    Visit("`Hello` with another agent's public key", takes_anothers_key, 1008),
    Visit("`Hello` with unknown live jobs", offers_strange_jobs, None),
    Visit("`Hello` with more than 4096 live jobs", offers_too_many_jobs, 1002),
    Visit("`Hello` with the session id of another agent", names_anothers_session, None),
]


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.name)
async def test_a_visit_is_answered_as_the_table_says(visit: Visit) -> None:
    async with Coordinator(visit.settings) as coordinator:
        async with dialled(coordinator) as first:
            await first.send(await first.hello())
            assert isinstance(await first.answer(), Welcome)
        tasks = task_names()
        async with dialled(coordinator) as dialler:
            await visit.act(dialler)
            if visit.close_code is not None:
                with contextlib.suppress(ConnectionClosed):
                    await dialler.read()
                await dialler.socket.wait_closed()
                assert dialler.socket.close_code == visit.close_code
        async with ScriptedAgent(coordinator.connect_url) as agent:
            assert agent.session.state is State.OPEN
        assert task_names() == tasks


@asynccontextmanager
async def relay_to(coordinator: Coordinator) -> AsyncIterator[str]:
    """Somebody in the middle, who passes every message on, both ways."""

    async def pump(source: ClientConnection | ServerConnection, sink: object) -> None:
        assert isinstance(sink, ClientConnection | ServerConnection)
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                await sink.send(message)
        await sink.close()

    async def handle(agent: ServerConnection) -> None:
        async with connect(
            coordinator.connect_url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None
        ) as upstream:
            await asyncio.gather(pump(agent, upstream), pump(upstream, agent))

    async with serve(
        handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None
    ) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}{CONNECT_PATH}"


async def test_a_challenge_that_another_host_relays_does_not_authenticate() -> None:
    """The agent signs what it dialled, which is the host in the middle."""
    nobody = ScriptedCoordinator()
    async with (
        Coordinator(USUAL) as coordinator,
        relay_to(coordinator) as url,
        RunningAgent(nobody, ScriptedBackend(), config=agent_config(url)) as agent,
    ):
        assert await agent.task == EXIT_REFUSED
        assert "bad_signature" in (agent.service.status().last_rejection or "")
        assert coordinator.agents() == []


async def test_the_same_agent_is_welcome_without_the_relay() -> None:
    nobody = ScriptedCoordinator()
    async with Coordinator(USUAL) as coordinator:
        config = agent_config(coordinator.connect_url)
        async with RunningAgent(nobody, ScriptedBackend(), config=config) as agent:
            await wait_for_models(coordinator)
            assert agent.service.status().link == "connected"
