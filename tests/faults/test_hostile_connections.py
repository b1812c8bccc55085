"""How the coordinator handles peers that do not behave like agents, or impersonate one."""

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
from provider_agent.protocol.agent_protocol import AgentProtocol
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
from provider_agent.protocol.state import State
from tests.kit.agent_config import agent_config
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.hostile_harness import task_names
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_backend import ScriptedBackend

DEFAULT = CoordinatorSettings(port=0, drain_s=0)
SHORT_HANDSHAKE = replace(DEFAULT, handshake_timeout_s=1.0)
SHORT_HEARTBEAT = replace(DEFAULT, heartbeat_ms=100)


class HostilePeer:
    """A connection to the coordinator, with a new key, over which a test sends any frames."""

    def __init__(self, coordinator: Coordinator, socket: ClientConnection) -> None:
        self.coordinator = coordinator
        self.socket = socket
        self.key = Ed25519PrivateKey.generate()
        parts = urlsplit(coordinator.connect_url)
        self.authority = canonical_authority(parts.scheme, parts.hostname or "", parts.port)

    async def read(self) -> list[CoordinatorFrame]:
        """The frames of the next message."""
        message = await self.socket.recv()
        return VERSION_1.decode_from_coordinator(message, 32 * MIB).frames

    async def send(self, *frames: AgentFrame) -> None:
        await self.socket.send(VERSION_1.encode(frames))

    async def hello(self, authority: str | None = None, **changes: object) -> Hello:
        """The `Hello` of a correct agent, with changed fields."""
        session = AgentProtocol(
            authority=authority or self.authority,
            public_key=self.key.public_key().public_bytes_raw(),
            sign=self.key.sign,
            agent_version="hostile",
        )
        for frame in await self.read():
            session.receive(frame)
        assert session.state is State.AWAITING_WELCOME
        (hello,) = session.to_send
        assert isinstance(hello, Hello)
        return replace(hello, **changes)

    async def read_frame(self) -> CoordinatorFrame:
        """The only frame of the next message."""
        (frame,) = await self.read()
        return frame


@asynccontextmanager
async def hostile_peer(coordinator: Coordinator) -> AsyncIterator[HostilePeer]:
    async with connect(
        coordinator.connect_url,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        open_timeout=None,
    ) as socket:
        yield HostilePeer(coordinator, socket)


class HostileConnection(Struct, frozen=True):
    """A hostile connection and the coordinator's reaction.

    Attributes:
        name: the first cell of the connection's row in docs/protocol.md.
        attack: performs the attack, after the WebSocket upgrade.
        close_code: the coordinator's close code; None if it sends `Welcome` for a new session.
        settings: the coordinator's settings.
    """

    name: str
    attack: Callable[[HostilePeer], Awaitable[None]]
    close_code: int | None
    settings: CoordinatorSettings = DEFAULT


async def send_nothing(peer: HostilePeer) -> None:
    await peer.read()


async def stop_sending(peer: HostilePeer) -> None:
    await peer.send(await peer.hello())
    assert isinstance(await peer.read_frame(), Welcome)


async def send_another_frame_first(peer: HostilePeer) -> None:
    await peer.send(Draining(1))


async def sign_for_another_address(peer: HostilePeer) -> None:
    await peer.send(await peer.hello("attacker.example:443"))
    rejected = await peer.read_frame()
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.retry_after_ms) == ("bad_signature", None)


async def use_the_key_of_another_agent(peer: HostilePeer) -> None:
    async with ScriptedAgent(peer.coordinator.connect_url) as agent:
        await peer.send(await peer.hello(public_key=agent.public_key))
        rejected = await peer.read_frame()
        assert isinstance(rejected, Rejected)
        assert rejected.code == "bad_signature"
        assert not agent.closed.is_set()


async def list_unknown_live_jobs(peer: HostilePeer) -> None:
    jobs = [LiveJob(number.to_bytes(16, "big"), 9, 3) for number in range(MAX_LIVE_JOBS)]
    await peer.send(await peer.hello(session_id=bytes(16), live_jobs=jobs))
    welcome = await peer.read_frame()
    assert isinstance(welcome, Welcome)
    assert welcome.resumed == []


async def list_too_many_live_jobs(peer: HostilePeer) -> None:
    jobs = [LiveJob(bytes(16), 0, 0)] * (MAX_LIVE_JOBS + 1)
    await peer.send(await peer.hello(live_jobs=jobs))


async def resume_the_session_of_another_agent(peer: HostilePeer) -> None:
    async with ScriptedAgent(peer.coordinator.connect_url) as agent:
        assert agent.protocol.welcome is not None
        session_id = agent.protocol.welcome.session_id
        await peer.send(await peer.hello(session_id=session_id))
        welcome = await peer.read_frame()
        assert isinstance(welcome, Welcome)
        assert welcome.session_id != session_id
        assert not agent.closed.is_set()


async def send_an_oversized_message(peer: HostilePeer) -> None:
    await peer.socket.send(bytes(MIN_MESSAGE_TO_COORDINATOR_BYTES + 1))


HOSTILE_CONNECTIONS = [
    HostileConnection("nothing after the upgrade", send_nothing, 1008, SHORT_HANDSHAKE),
    HostileConnection("nothing for three heartbeats", stop_sending, 1008, SHORT_HEARTBEAT),
    HostileConnection("another frame before `Hello`", send_another_frame_first, 1002),
    HostileConnection(
        "a message over 1048576 bytes before `Welcome`", send_an_oversized_message, 1009
    ),
    HostileConnection("`Hello` signed for another address", sign_for_another_address, 1008),
    HostileConnection(
        "`Hello` with another agent's public key", use_the_key_of_another_agent, 1008
    ),
    HostileConnection("`Hello` with unknown live jobs", list_unknown_live_jobs, None),
    HostileConnection("`Hello` with more than 4096 live jobs", list_too_many_live_jobs, 1002),
    HostileConnection(
        "`Hello` with the session id of another agent", resume_the_session_of_another_agent, None
    ),
]


@pytest.mark.parametrize("connection", HOSTILE_CONNECTIONS, ids=lambda connection: connection.name)
async def test_hostile_connection_is_handled_as_documented(connection: HostileConnection) -> None:
    async with Coordinator(connection.settings) as coordinator:
        async with hostile_peer(coordinator) as first:
            await first.send(await first.hello())
            assert isinstance(await first.read_frame(), Welcome)
        tasks = task_names()
        async with hostile_peer(coordinator) as peer:
            await connection.attack(peer)
            if connection.close_code is not None:
                with contextlib.suppress(ConnectionClosed):
                    await peer.read()
                await peer.socket.wait_closed()
                assert peer.socket.close_code == connection.close_code
        async with ScriptedAgent(coordinator.connect_url) as agent:
            assert agent.protocol.state is State.OPEN
        assert task_names() == tasks


@asynccontextmanager
async def relay(coordinator: Coordinator) -> AsyncIterator[str]:
    """Run a man in the middle that forwards every message in both directions; yield its URL."""

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


async def test_agent_that_dials_a_relay_is_rejected() -> None:
    # The agent signs the authority that it dialed: the relay's, not the coordinator's.
    async with (
        Coordinator(DEFAULT) as coordinator,
        relay(coordinator) as url,
        RunningAgent(None, ScriptedBackend(), config=agent_config(url)) as agent,
    ):
        assert await agent.task == EXIT_REFUSED
        assert "bad_signature" in (agent.service.status().last_disconnect or "")
        assert coordinator.agents() == []


async def test_agent_that_dials_the_coordinator_directly_connects() -> None:
    async with Coordinator(DEFAULT) as coordinator:
        config = agent_config(coordinator.connect_url)
        async with RunningAgent(None, ScriptedBackend(), config=config) as agent:
            await wait_for_models(coordinator)
            assert agent.service.status().link == "connected"
