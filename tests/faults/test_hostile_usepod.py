"""How the agent handles a hostile coordinator of the Use Pod dialect."""

import json
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest
from msgspec import Struct

from provider_agent.agent.link.backoff import UNAUTHORIZED_S
from provider_agent.protocol.limits import KIB
from tests.faults.test_hostile_coordinator import no_log_records
from tests.kit.hostile_harness import task_names
from tests.kit.usepod_harness import UsepodHarness, new_id, usepod_harness
from tests.kit.virtual_time import in_virtual_time, now

__all__ = ["no_log_records"]

MODEL_JOB: Final = {"type": "job", "model_id": "m", "request": {"messages": []}}
Action = Callable[[UsepodHarness], Awaitable[None]]


class UsepodAttack(Struct, frozen=True):
    """One attack on an open connection.

    Attributes:
        name: what the coordinator sends.
        perform: sends it, and checks the answers, if there are any.
        close_code: the agent's close code; None: the connection stays open.
    """

    name: str
    perform: Action
    close_code: int | None = None


def send(*messages: bytes | str | Mapping[str, object]) -> Action:
    async def perform(harness: UsepodHarness) -> None:
        for one in messages:
            await harness.connection.send_raw(json.dumps(one) if isinstance(one, Mapping) else one)

    return perform


async def repeat_running_job(harness: UsepodHarness) -> None:
    job_id = new_id()
    run = await harness.start_job(job_id)
    for _ in range(3):
        await harness.connection.send_job(job_id, "m")
    run.answer(b"once")
    await harness.connection.end(job_id)
    await harness.connection.send_job(job_id, "m")
    await harness.connection.settle()
    assert len(harness.backend.runs) == 1
    assert len(harness.connection.of_job(job_id)) == 2, "one chunk and one end"


async def cancel_one_job_many_times(harness: UsepodHarness) -> None:
    job_id = new_id()
    run = await harness.start_job(job_id)
    for _ in range(1000):
        await harness.connection.send(type="job_cancel", job_id=job_id)
    await run.cancelled.wait()
    await harness.connection.settle()
    assert harness.connection.of_job(job_id) == []


async def send_jobs_beyond_capacity(harness: UsepodHarness) -> None:
    runs = {job_id: await harness.start_job(job_id) for job_id in (new_id(), new_id())}
    for _ in range(300):
        job_id = new_id()
        await harness.connection.send_job(job_id, "m")
        assert (await harness.connection.end(job_id))["error_code"] == "out_of_capacity"
    for job_id, run in runs.items():
        run.answer(b"x")
        await harness.connection.end(job_id)


async def send_jobs_for_unknown_models(harness: UsepodHarness) -> None:
    for model_id in ("", "nope", "m" * 100_000, "m\x00\n"):
        job_id = new_id()
        await harness.connection.send_job(job_id, model_id)
        assert (await harness.connection.end(job_id))["error_code"] == "model_not_loaded"


async def send_requests_that_are_no_object(harness: UsepodHarness) -> None:
    requests: list[object] = [None, 7, "x", [{}], True]
    for request in requests:
        job_id = new_id()
        run = await harness.start_job(job_id, request=request)
        run.fail(ValueError("the scripted backend reads no requests"))
        assert (await harness.connection.end(job_id))["error_code"] == "internal"


async def send_endless_message(harness: UsepodHarness) -> None:
    first, next_ = b"\x01\x00", b"\x00\x00"  # RFC 6455, 5.2: empty text fragments without FIN
    harness.connection.socket.transport.write(first + next_ * 100_000)


ATTACKS: Final = [
    UsepodAttack("texts that are not JSON", send("", "{", "[[[", "nul", "\x00", "[" * 100_000)),
    UsepodAttack("JSON that is not an object", send("7", "null", "[]", '"job"')),
    UsepodAttack("binary messages", send(b"", b"\x00", json.dumps(MODEL_JOB).encode())),
    UsepodAttack("unknown types", send(*({"type": f"x{n}"} for n in range(1000)))),
    UsepodAttack("incomplete messages", send({"type": "job"}, {"type": "job_cancel"}, MODEL_JOB)),
    UsepodAttack(
        "messages of the agent's own direction",
        send({"type": "job_done", "job_id": "1"}, {"type": "heartbeat"}),
    ),
    UsepodAttack("an unknown job's cancel", send({"type": "job_cancel", "job_id": "1"})),
    UsepodAttack("a job id again", repeat_running_job),
    UsepodAttack("a job's cancel a thousand times", cancel_one_job_many_times),
    UsepodAttack("jobs beyond the capacity", send_jobs_beyond_capacity),
    UsepodAttack("jobs for models that were not offered", send_jobs_for_unknown_models),
    UsepodAttack("requests that are not objects", send_requests_that_are_no_object),
    UsepodAttack(
        "the handshake again",
        send({"type": "auth_challenge", "nonce": "AAAA"}, {"type": "auth_ok", "provider_id": "2"}),
    ),
    UsepodAttack("one message in endless empty fragments", send_endless_message, 1009),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@in_virtual_time
async def test_the_agent_serves_during_or_after_an_attack(attack: UsepodAttack) -> None:
    async with usepod_harness() as harness:
        await harness.assert_serves()
        harness.clear_history()
        tasks = task_names()
        await attack.perform(harness)
        if attack.close_code is not None:
            await harness.connection.closed.wait()
            assert harness.connection.socket.close_code == attack.close_code
            await harness.reconnected()
        await harness.assert_serves()
        await harness.assert_no_jobs_left()
        assert task_names() == tasks


@in_virtual_time
async def test_a_late_auth_failed_ends_the_link_and_is_retried_slowly() -> None:
    async with usepod_harness() as harness:
        await harness.connection.send(type="auth_failed", reason="revoked\x1b[2J\n")
        await harness.connection.closed.wait()
        began = now()
        reason = harness.agent.service.status().last_disconnect or ""
        await harness.reconnected()

        assert now() - began >= UNAUTHORIZED_S / 2
        assert "revoked" in reason
        assert reason.isprintable()
        await harness.assert_serves()


async def flood_with_unknown_types(harness: UsepodHarness) -> None:
    for number in range(1000):
        await harness.connection.send(type=f"{new_id()} {number}")


async def flood_with_malformed_messages(harness: UsepodHarness) -> None:
    for _ in range(1000):
        await harness.connection.send_raw('{"type": "job", "job_id": "' + new_id())


async def flood_with_cancels(harness: UsepodHarness) -> None:
    for _ in range(1000):
        await harness.connection.send(type="job_cancel", job_id=new_id())


async def flood_with_jobs(harness: UsepodHarness) -> None:
    for _ in range(500):
        await harness.connection.send_job(new_id(), "nope")


FLOODS: Final = {
    "unknown types": flood_with_unknown_types,
    "malformed messages": flood_with_malformed_messages,
    "cancels": flood_with_cancels,
    "jobs": flood_with_jobs,
}


@pytest.mark.usefixtures("no_log_records")
@pytest.mark.parametrize("name", FLOODS)
@in_virtual_time
async def test_a_flood_does_not_grow_memory(name: str) -> None:
    async with usepod_harness() as harness:
        held = []
        tracemalloc.start()
        for _ in range(3):
            await FLOODS[name](harness)
            await harness.assert_serves()
            harness.clear_history()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        # Only the last round must not grow memory: the rounds before it fill what is bounded.
        assert held[-1] - held[-2] < 400 * KIB, held
        await harness.assert_no_jobs_left()
