"""A `LinkUser` that keeps what it is told."""

import asyncio
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.backoff import Disconnect
from provider_agent.agent.link.connection import Link
from provider_agent.agent.link.dial import DialSettings
from provider_agent.protocol.frames import Ack, Cancel, CoordinatorFrame, Drain, Job, Welcome
from provider_agent.protocol.session import AgentSession
from tests.kit.scripted_coordinator import AgentAtCoordinator, ScriptedCoordinator


class RecordingUser:
    """Keeps every frame; `connected` is set by `Welcome`."""

    def __init__(self) -> None:
        self.frames: list[CoordinatorFrame] = []
        self.heard_count = 0
        self.connected = asyncio.Event()
        self.on_frame: Callable[[CoordinatorFrame], None] = lambda _frame: None

    def _take(self, frame: CoordinatorFrame) -> None:
        self.frames.append(frame)
        self.on_frame(frame)

    def heard(self) -> None:
        self.heard_count += 1

    def welcomed(self, welcome: Welcome) -> None:
        self.connected.set()
        self._take(welcome)

    def job_offered(self, job: Job) -> None:
        self._take(job)

    def cancel_requested(self, cancel: Cancel) -> None:
        self._take(cancel)

    def acknowledged(self, ack: Ack) -> None:
        self._take(ack)

    def drain_requested(self, drain: Drain) -> None:
        self._take(drain)


class DialledLink:
    """A link with a real key, whose user only records."""

    def __init__(self, url: str, *, enrollment_code: str = "", authority: str = "") -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public_key = self.key.public_key().public_bytes_raw()
        self.outbox = Outbox()
        self.user = RecordingUser()
        self._enrollment_code = enrollment_code
        self._authority = authority
        self.link = Link(DialSettings(url=url), self._new_session, self.outbox, self.user)

    def _new_session(self, authority: str) -> AgentSession:
        return AgentSession(
            authority=self._authority or authority,
            public_key=self.public_key,
            sign=self.key.sign,
            agent_version="1.2.3",
            instance_id="instance",
            enrollment_code=self._enrollment_code,
        )


class Connected:
    """A link whose `run` is under way."""

    def __init__(self, coordinator: ScriptedCoordinator) -> None:
        self.dialled = DialledLink(coordinator.url)
        self.user = self.dialled.user
        self.outbox = self.dialled.outbox
        self.running = asyncio.create_task(self.dialled.link.run())

    async def end(self) -> Disconnect:
        return await self.running


async def connect(coordinator: ScriptedCoordinator) -> tuple[Connected, AgentAtCoordinator]:
    connected = Connected(coordinator)
    agent = await coordinator.next_agent()
    await connected.user.connected.wait()
    return connected, agent
