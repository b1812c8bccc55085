"""Values of servers and operators that no frame can carry.

In an earlier version, each of them stopped the agent.
"""

from collections.abc import Callable

import pytest

from provider_agent.adapters.base import Operation
from provider_agent.adapters.registry import create_backend
from provider_agent.adapters.settings import BackendSettings
from provider_agent.agent.config import OperatorConfig
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import Capabilities, Heartbeat, JobStarted
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES
from tests.kit.agent_config import agent_config
from tests.kit.fakes import FakeLlamaCpp, FakeLmStudio, FakeServer
from tests.kit.raw_jobs import FRAMES, backend_at, job_for
from tests.kit.raw_server import LAST_CHUNK, RawServer, Reply, chunked, head
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator


def llamacpp_with_negative_slots() -> FakeServer:
    server = FakeLlamaCpp()
    server.total_slots = -1
    return server


def lmstudio_with_too_many_slots() -> FakeServer:
    server = FakeLmStudio()
    server.parallel = 2**60
    return server


@pytest.mark.parametrize(
    ("make_server", "default"),
    [(llamacpp_with_negative_slots, 4), (lmstudio_with_too_many_slots, 1)],
)
async def test_impossible_number_of_slots_selects_the_default(
    make_server: Callable[[], FakeServer], default: int
) -> None:
    async with make_server() as server, ScriptedCoordinator() as coordinator:
        backend = create_backend(BackendSettings(kind=server.kind, url=server.url))
        async with RunningAgent(coordinator, backend, ScriptedBackend("healthy")) as agent:
            peer = await agent.connected()
            offers = (await peer.next(Capabilities)).models
            by_kind = {offer.backend_kind: offer.max_concurrent for offer in offers}
            assert by_kind[server.kind] == default
            assert "scripted" in by_kind
            load = (await peer.next(Heartbeat)).backends[0]
            assert load.capacity == default


async def test_undecodable_byte_in_an_operators_name_is_replaced() -> None:
    # How Python decodes the Latin-1 byte in PROVIDER_AGENT_OPERATOR_DISPLAY_NAME=$'caf\xe9'.
    operator = OperatorConfig(display_name="caf\udce9")
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, operator=operator)
        async with RunningAgent(coordinator, ScriptedBackend(), config=config) as agent:
            peer = await agent.connected()
            metadata = (await peer.next(Capabilities)).metadata
            assert metadata == {"display_name": "caf\N{REPLACEMENT CHARACTER}"}


async def test_content_type_with_an_undecodable_byte_is_sent_in_a_valid_frame() -> None:
    start = head(content_type="text/event-stream; x=?", Transfer_Encoding="chunked")
    body = b"".join(map(chunked, FRAMES[Operation.CHAT])) + LAST_CHUNK
    outbox = Outbox()
    job = job_for(Operation.CHAT)
    channel = outbox.open(job.job_id)
    reply = Reply(start.replace(b"?", b"\xff") + body)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        await backend.execute(job, channel)

    message = VERSION_1.encode(outbox.next_batch())
    started = VERSION_1.decode_from_agent(message, MIN_MESSAGE_TO_COORDINATOR_BYTES).frames[0]
    assert isinstance(started, JobStarted)
    assert started.content_type.isascii()
