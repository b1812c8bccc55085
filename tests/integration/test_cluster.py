"""Two coordinators with one fleet, over a real NATS server."""

import asyncio
import random
import re
import signal
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.cluster.connection import SEND_BUFFER_BYTES
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.server import Coordinator
from provider_agent.protocol.limits import CONNECT_PATH
from tests.kit.certificates import CertificateAuthority
from tests.kit.cli_process import start_command
from tests.kit.cluster_harness import (
    INTERVAL_S,
    cluster_harness,
    crash,
    member_of,
    remote_job_harness,
    wait_until,
)
from tests.kit.coordinator_harness import CHAT, JSON_HEADERS, NO_HEARTBEATS
from tests.kit.nats_server import nats_server
from tests.kit.scripted_agent import ScriptedAgent


async def test_client_of_one_coordinator_is_answered_by_the_agent_of_another() -> None:
    async with remote_job_harness() as remote:
        answer = random.Random(1).randbytes(3_000_000)
        asking = asyncio.create_task(remote.cluster.ask(remote.client))
        job = await remote.agent.next_job()
        assert job.job.request == b'{"model":"tiny"}'
        answering = asyncio.create_task(job.answer(*_pieces(answer)))
        response = await asking
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert await response.read() == answer
        await answering
        await wait_until(lambda: not len(member_of(remote.edge).edge))
        await wait_until(lambda: not len(member_of(remote.holder).holder))


def _pieces(data: bytes) -> list[bytes]:
    return [data[first : first + 10_007] for first in range(0, len(data), 10_007)]


async def test_large_request_arrives_unchanged() -> None:
    async with remote_job_harness() as remote:
        body = b'{"model":"tiny","padding":"' + b"x" * 900_000 + b'"}'
        asking = asyncio.create_task(remote.cluster.ask(remote.client, body))
        job = await remote.agent.next_job()
        assert job.job.request == body
        await job.answer(b"done")
        assert await (await asking).read() == b"done"


async def test_client_that_does_not_read_stops_its_backend() -> None:
    window = 64 * 1024
    async with remote_job_harness(replace(NO_HEARTBEATS, window_bytes=window)) as remote:
        job, response = await remote.start_response(b"first")
        data = bytes(64 * 1024)
        total = 400 * len(data)  # much more than the sockets between client and edge hold
        sending = asyncio.create_task(job.send(*[data] * 400))
        # The client's side is full when two renewals have brought no acknowledgement.
        acked = -1
        while job.stream.acked != acked:
            acked = job.stream.acked
            await _renewals(remote.edge, 3)
        assert not sending.done()
        assert job.stream.sent - job.stream.acked <= window
        received = 0
        while received < total:
            received += len(await response.content.readany())
        assert received == total
        await sending
        await job.finish()
        assert await response.read() == b""


async def _renewals(coordinator: Coordinator, count: int) -> None:
    """Wait for snapshots; renewals are sent with them."""
    enough = member_of(coordinator).revision + count
    await wait_until(lambda: member_of(coordinator).revision >= enough)


async def test_disconnected_client_cancels_the_job_at_the_agent() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"first")
        response.close()
        await job.cancelled.wait()
        await wait_until(lambda: not len(member_of(remote.holder).holder))


async def test_error_of_the_agent_reaches_the_client() -> None:
    async with remote_job_harness() as remote:
        asking = asyncio.create_task(remote.cluster.ask(remote.client))
        job = await remote.agent.next_job()
        await job.fail("bad_request", body=b'{"error":{"message":"no"}}', upstream_status=422)
        response = await asking
        assert response.status == 422
        assert await response.read() == b'{"error":{"message":"no"}}'


async def test_interrupted_link_of_the_agent_loses_no_byte() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        await remote.agent.lose_link()
        job.stream.write(b"two,")
        await remote.agent.reconnect()
        await job.answer_rest(b"three")
        assert await response.read() == b"two,three"


async def test_stopped_edge_cancels_its_jobs_at_the_agent() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"first")
        await remote.edge.stop()
        await job.cancelled.wait()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_running_job_continues_after_a_restart_of_nats() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        await remote.cluster.nats.stop()
        await wait_until(lambda: not member_of(remote.edge).is_connected)
        await wait_until(lambda: not member_of(remote.holder).is_connected)
        await job.send(b"two,")
        await remote.cluster.nats.start()
        await job.answer_rest(b"three")
        assert await response.read() == b"two,three"


async def test_running_job_continues_after_nats_has_stopped_without_closing_connections() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        remote.cluster.nats.suspend()
        await wait_until(lambda: not member_of(remote.edge).is_connected)
        await wait_until(lambda: not member_of(remote.holder).is_connected)
        await job.send(b"two,")
        remote.cluster.nats.resume()
        await job.answer_rest(b"three")
        assert await response.read() == b"two,three"


async def test_remote_job_is_refused_while_nats_is_down() -> None:
    async with remote_job_harness(replace(NO_HEARTBEATS, queue_s=0)) as remote:
        await remote.cluster.nats.stop()
        await wait_until(lambda: not member_of(remote.edge).is_connected)
        response = await remote.cluster.ask(remote.client)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        ready = await remote.client.get("/readyz")
        assert ready.status == 503
        local = await remote.cluster.client(remote.holder)
        asking = asyncio.create_task(remote.cluster.ask(local))
        await (await remote.agent.next_job()).answer(b"local")
        assert await (await asking).read() == b"local"


async def test_coordinator_serves_its_own_agents_without_nats() -> None:
    async with cluster_harness() as cluster:
        await cluster.nats.stop()
        alone = await cluster.start()
        agent = await cluster.agent(alone)
        asking = asyncio.create_task(cluster.ask(await cluster.client(alone)))
        await (await agent.next_job()).answer(b"alone")
        assert await (await asking).read() == b"alone"
        await cluster.nats.start()
        await wait_until(lambda: member_of(alone).is_connected)


async def test_full_agent_refuses_and_the_request_waits_for_room() -> None:
    async with remote_job_harness() as remote:
        local = await remote.cluster.client(remote.holder)
        asked = [asyncio.create_task(remote.cluster.ask(local)) for _ in range(8)]
        running = [await remote.agent.next_job() for _ in asked]
        waiting = asyncio.create_task(remote.cluster.ask(remote.client))
        await wait_until(lambda: remote.edge.queued == 1)
        for job in running:
            await job.answer(b"local")
        await (await remote.agent.next_job()).answer(b"remote")
        assert await (await waiting).read() == b"remote"
        for task in asked:
            await (await task).read()


async def test_response_ends_with_an_error_if_the_agent_does_not_return() -> None:
    async with remote_job_harness(replace(NO_HEARTBEATS, resume_ms=100)) as remote:
        _job, response = await remote.start_response(b"data: {}\n\n")
        await crash(remote.holder)
        assert b"connection to the provider" in await response.read()
        await wait_until(lambda: not member_of(remote.edge).agents())


async def test_crash_of_a_holder_is_noticed_by_the_next_message_to_it() -> None:
    async with remote_job_harness(interval_s=60) as remote:
        await crash(remote.holder)
        other = await remote.cluster.agent(remote.edge)
        asked = [asyncio.create_task(remote.cluster.ask(remote.client)) for _ in range(4)]
        for _ in asked:
            await (await other.next_job()).answer(b"from the other agent")
        for task in asked:
            assert await (await task).read() == b"from the other agent"


async def test_job_of_a_silent_edge_is_cancelled_at_the_agent() -> None:
    async with remote_job_harness() as remote:
        job, _response = await remote.start_response(b"first")
        await crash(remote.edge)
        await job.cancelled.wait()
        assert not len(member_of(remote.holder).holder)


async def test_coordinators_find_each_other_over_tls_with_a_password(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue("localhost")
    key = certificate.with_suffix(".key")
    arguments = ("--tls", "--tlscert", str(certificate), "--tlskey", str(key))
    async with nats_server(*arguments, "--user", "u", "--pass", "secret") as nats:
        url = f"tls://u:secret@localhost:{nats.port}"
        cluster = ClusterSettings(
            urls=(url,),
            ca_file=authority.file,
            interval_s=INTERVAL_S,
        )
        settings = replace(NO_HEARTBEATS, cluster=cluster)
        async with Coordinator(settings) as one, Coordinator(settings) as two:
            await wait_until(lambda: len(member_of(one).view) == 1 == len(member_of(two).view))


async def test_server_without_tls_receives_no_password_at_a_tls_url(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The NATS client used TLS only if the server asked for it.
    async with nats_server("--user", "u", "--pass", "secret") as nats:
        url = nats.url.replace("nats://", "tls://u:secret@")
        settings = replace(NO_HEARTBEATS, cluster=ClusterSettings(urls=(url,)))
        async with Coordinator(settings) as coordinator:
            member = member_of(coordinator)
            await wait_until(
                lambda: member.is_connected or "offers no TLS" in _cluster_errors(caplog)
            )
            assert not member.is_connected


def _cluster_errors(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(
        str(vars(record)) for record in caplog.records if record.message == "cluster error"
    )


async def test_coordinator_connects_again_after_an_error_of_the_server() -> None:
    # The NATS client closes itself after such an error, and the coordinator stayed alone.
    connections: asyncio.Queue[None] = asyncio.Queue()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576}\r\n')
        await reader.readuntil(b"PING\r\n")
        connections.put_nowait(None)
        writer.write(b"PONG\r\n")
        await reader.readuntil(b"PUB ")
        writer.write(b"-ERR 'User Authentication Expired'\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Coordinator(replace(NO_HEARTBEATS, cluster=ClusterSettings(urls=(url,)))):
        for _ in range(3):
            await connections.get()


async def test_stop_ends_while_nats_does_not_read() -> None:
    # The NATS client ignored the cancellation of the writer, and the stop waited for it forever.
    async with nats_server() as nats:
        cluster = ClusterSettings(urls=(nats.url,), interval_s=INTERVAL_S)
        coordinator = Coordinator(replace(NO_HEARTBEATS, cluster=cluster))
        await coordinator.start()
        await wait_until(lambda: member_of(coordinator).is_connected)
        bus = coordinator._cluster
        assert bus is not None
        nats.suspend()
        bus.member.next_message = lambda: (b"x" * 16, bytes(900_000))  # type: ignore[method-assign]
        bus._queued.set()
        await wait_until(lambda: bus._connection.pending_bytes > SEND_BUFFER_BYTES)
        await coordinator.stop()


async def test_wrong_password_is_logged_without_it(caplog: pytest.LogCaptureFixture) -> None:
    async with nats_server("--user", "u", "--pass", "right") as nats:
        url = nats.url.replace("//", "//u:wrongsecret@")
        settings = replace(NO_HEARTBEATS, cluster=ClusterSettings(urls=(url,)))
        async with Coordinator(settings):
            await wait_until(lambda: "Authorization Violation" in _cluster_errors(caplog))
    assert all("wrongsecret" not in str(vars(record)) for record in caplog.records)


async def test_stop_with_unsent_messages_of_a_lost_connection() -> None:
    # The client tried to send them over the closed connection; the stop failed with its error.
    async with cluster_harness() as cluster:
        coordinator = await cluster.start()
        await wait_until(lambda: member_of(coordinator).is_connected)
        await cluster.nats.stop()
        await wait_until(lambda: not member_of(coordinator).is_connected)
        bus = coordinator._cluster
        assert bus is not None
        await bus._publish_snapshot()
        assert bus._connection.pending_bytes > 0
        await coordinator.stop()


async def test_other_prefix_is_another_cluster() -> None:
    async with nats_server() as nats:
        one, two = (
            replace(
                NO_HEARTBEATS,
                cluster=ClusterSettings(urls=(nats.url,), prefix=prefix, interval_s=INTERVAL_S),
            )
            for prefix in ("one", "two")
        )
        async with Coordinator(one) as first, Coordinator(two) as other, Coordinator(one) as same:
            await wait_until(lambda: len(member_of(first).view) == 1)
            await wait_until(lambda: len(member_of(same).view) == 1)
            assert len(member_of(other).view) == 0


async def test_agent_of_a_killed_coordinator_continues_at_another(tmp_path: Path) -> None:
    """Two `provider-agent coordinator` processes; the metrics show the cluster."""
    async with nats_server() as nats:
        arguments = ("coordinator", "--port", "0", "--cluster", nats.url)
        async with (
            start_command(*arguments, home=tmp_path) as holder,
            start_command(
                *arguments[:3], home=tmp_path, env={"COORDINATOR_CLUSTER": nats.url}
            ) as edge,
        ):
            urls = [_address(await p.wait_for_log("coordinator listening")) for p in (holder, edge)]
            async with (
                aiohttp.ClientSession(f"http://{urls[1]}", headers=JSON_HEADERS) as client,
                ScriptedAgent(f"ws://{urls[0]}{CONNECT_PATH}") as agent,
            ):
                while await _metric(client, "cluster_agents") != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert await _metric(client, "cluster_connected") == 1
                asking = asyncio.create_task(client.post(CHAT, data=b'{"model":"tiny"}'))
                job = await agent.next_job()
                await job.start()
                await job.send(b"data: {}\n\n")
                response = await asking
                assert await _metric(client, "cluster_sent_jobs") == 1
                holder.signal(signal.SIGKILL)
                await agent.closed.wait()
                await agent.reconnect(connect_url=f"ws://{urls[1]}{CONNECT_PATH}")
                await job.answer_rest(b"data: [DONE]\n\n")
                assert await response.read() == b"data: {}\n\ndata: [DONE]\n\n"
                assert await _metric(client, "cluster_sent_jobs") == 0


def _address(line: str) -> str:
    found = re.search(r"address='([^']+)'", line)
    assert found is not None
    return found[1]


async def _metric(client: aiohttp.ClientSession, name: str) -> float:
    async with client.get("/metrics") as response:
        found = re.search(rf"^coordinator_{name} (\S+)$", await response.text(), re.MULTILINE)
    assert found is not None
    return float(found[1])
