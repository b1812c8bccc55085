"""Signed receipts of jobs whose agent moves between coordinators in the middle of a response."""

import asyncio
import hashlib

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.settings import ReceiptMode
from provider_agent.protocol.frames import Receipt
from provider_agent.protocol.receipts import FEATURE, ReceiptContent
from tests.kit.cluster_harness import cluster_harness, member_of, wait_until
from tests.kit.coordinator_harness import NO_HEARTBEATS
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob

SIGNED = replace(NO_HEARTBEATS, receipts=ReceiptMode.SIGNED)


def receipt(agent: ScriptedAgent, job: ScriptedJob, body: bytes) -> Receipt:
    """Return the receipt of a response, with the usage of `ScriptedJob.finish`."""
    sha256 = hashlib.sha256(body).digest()
    content = ReceiptContent(job.job.job_id, job.job.model_id, sha256, 3, 4)
    return Receipt(sha256, agent.key.sign(content.signed_bytes()))


@pytest.mark.parametrize("path", [(0, 1), (0, 1, 0), (1, 0), (1, 0, 1)], ids=str)
@pytest.mark.parametrize("is_valid", [True, False])
async def test_receipt_covers_the_bytes_from_before_and_after_each_move(
    path: tuple[int, ...], is_valid: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster_harness() as cluster:
        coordinators = [await cluster.start(SIGNED) for _ in range(2)]
        edge, other = coordinators
        await wait_until(lambda: len(member_of(edge).view) == len(member_of(other).view) == 1)
        client = await cluster.client(edge)
        first, *moves = [coordinators[index] for index in path]
        async with ScriptedAgent(first.connect_url, features=[FEATURE]) as agent:
            await wait_until(lambda: bool(edge.agents() or member_of(edge).agents()))
            asking = asyncio.create_task(cluster.ask(client))
            job = await agent.next_job()
            await job.start()
            await job.send(b"one,")
            async with await asking as response:
                assert await response.content.readexactly(4) == b"one,"
                for coordinator, piece in zip(moves, (b"two,", b"three,"), strict=False):
                    await agent.lose_link()
                    job.stream.write(piece)
                    await agent.reconnect(connect_url=coordinator.connect_url)
                await job.send(b"end")
                body = b"".join((b"one,", b"two,", b"three," * (len(moves) - 1), b"end"))
                await job.finish(receipt(agent, job, body if is_valid else body[:-1]))
                if is_valid:
                    assert await response.read() == body[4:]
                else:
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await response.read()
                await job.done.wait()
    assert ("receipt not valid" in caplog.messages) is not is_valid
