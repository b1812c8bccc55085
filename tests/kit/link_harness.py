"""Runs one `Link` against a scripted coordinator, and records the frames that the link receives."""

import asyncio
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.backoff import Disconnect
from provider_agent.agent.link.coalescing import Coalescing
from provider_agent.agent.link.connection import Link
from provider_agent.agent.link.dial import DialSettings
from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.frames import CoordinatorFrame, ResponseFrame, Welcome
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import now


class LinkHarness:
    """A link with a new key.

    Attributes:
        frames: every frame that the link passed to its callback.
        unsendable: for each job with response frames that could not be sent, the first of them.
        rests: the length of each rest of the event loop, which does not rest in fact.
        welcomed: set when the link receives `Welcome`.
        on_frame: called with every frame after it was recorded.
    """

    def __init__(self, url: str, *, enrollment_code: str = "", authority: str = "") -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public_key = self.key.public_key().public_bytes_raw()
        self.outbox = Outbox()
        self.frames: list[CoordinatorFrame] = []
        self.unsendable: list[ResponseFrame] = []
        self.rests: list[float] = []
        self.welcomed = asyncio.Event()
        self.on_frame: Callable[[CoordinatorFrame], None] = lambda _frame: None
        self._enrollment_code = enrollment_code
        self._authority = authority
        self.link = Link(
            DialSettings(url=url),
            self._new_protocol,
            self.outbox,
            on_frame=self._receive,
            on_activity=lambda: None,
            on_unsendable=self.unsendable.append,
            coalescing=Coalescing(0.001, now, self.rests.append),
        )

    def _receive(self, frame: CoordinatorFrame) -> None:
        self.frames.append(frame)
        if isinstance(frame, Welcome):
            self.welcomed.set()
        self.on_frame(frame)

    def _new_protocol(self, authority: str) -> AgentProtocol:
        return AgentProtocol(
            authority=self._authority or authority,
            public_key=self.public_key,
            sign=self.key.sign,
            agent_version="1.2.3",
            instance_id="instance",
            enrollment_code=self._enrollment_code,
        )


class RunningLink(LinkHarness):
    """A link whose `run` has started.

    Attributes:
        task: the task that runs the link.
    """

    def __init__(self, coordinator: ScriptedCoordinator, *, enrollment_code: str = "") -> None:
        super().__init__(coordinator.url, enrollment_code=enrollment_code)
        self.task = asyncio.create_task(self.link.run())

    async def disconnect(self) -> Disconnect:
        """Wait until the link has ended; return its `Disconnect`."""
        return await self.task


async def connect(
    coordinator: ScriptedCoordinator, *, enrollment_code: str = ""
) -> tuple[RunningLink, AgentConnection]:
    """Start a link and wait for its `Welcome`; return the link and the coordinator's end."""
    link = RunningLink(coordinator, enrollment_code=enrollment_code)
    connection = await coordinator.next_connection()
    await link.welcomed.wait()
    return link, connection
