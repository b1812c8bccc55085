import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from provider_agent.adapters.base import ResponseOutcome, Transport, Usage
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.receipt_issuer import ReceiptIssuer
from provider_agent.protocol.frames import Ack
from provider_agent.protocol.receipts import FEATURE, ReceiptContent
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend

KEY = Ed25519PrivateKey.generate()


def harness_with_receipts(backend: ScriptedBackend, *features: str) -> JobsHarness:
    receipts = ReceiptIssuer(KEY.sign)
    receipts.negotiated(features)
    return JobsHarness(backend, receipts=receipts)


async def test_ends_have_no_receipt_unless_it_was_negotiated() -> None:
    backend = ScriptedBackend()
    harness = harness_with_receipts(backend, "another")
    job, run = await start_job(harness, backend)
    run.answer(b"x")

    assert (await harness.end(job)).receipt is None
    assert [one.sha256 for one in harness.records] == [None]


async def test_response_is_hashed_for_the_ledger_without_a_receipt() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend, receipts=ReceiptIssuer(KEY.sign, always_hash=True))
    job, run = await start_job(harness, backend)
    run.answer(b"x")

    assert (await harness.end(job)).receipt is None
    assert [one.sha256 for one in harness.records] == [hashlib.sha256(b"x").digest()]


async def test_signed_receipt_covers_response_and_usage() -> None:
    backend = ScriptedBackend()
    harness = harness_with_receipts(backend, FEATURE)
    job = replace(new_job(), sign_receipt=True)
    submit_job(harness.jobs, job)
    (await backend.next_run()).answer(b"one ", b"two")

    receipt = (await harness.end(job)).receipt

    assert receipt is not None
    assert receipt.sha256 == hashlib.sha256(b"one two").digest()
    assert [one.sha256 for one in harness.records] == [receipt.sha256]
    assert receipt.signature is not None
    content = ReceiptContent(job.job_id, job.model_id, receipt.sha256, 3, 4)
    assert content.is_signed_by(KEY.public_key().public_bytes_raw(), receipt.signature)


@pytest.mark.parametrize("end", ["failed", "cancelled", "stalled", "refused"])
async def test_receipt_of_a_failed_job_covers_what_was_sent(end: str) -> None:
    backend = ScriptedBackend()
    harness = harness_with_receipts(backend, FEATURE)
    if end == "refused":
        harness.jobs.set_accepting(accepting=False)
        job = new_job()
        submit_job(harness.jobs, job)
    else:
        job, run = await start_job(harness, backend)
        run.start()
        run.send(b"acknowledged, ", b"sent, ")
        harness.pump(acknowledge=False)
        harness.outbox.acknowledge(Ack(job.job_id, 5))
        run.send(b"unsent")
        if end == "failed":
            run.fail(Transport("?"))
        elif end == "cancelled":
            harness.jobs.stop_all(StopReason.CANCELLED, "")
        else:
            run.reported = ResponseOutcome(Usage(3, 4))
            run.finish()
            await harness.jobs.wait_until_idle()
            harness.jobs.end_stalled(harness.outbox.channel(job.job_id).stream)

    error = await harness.error(job)

    assert error.receipt is not None
    assert error.receipt.sha256 == hashlib.sha256(harness.data(job)).digest()
    assert error.receipt.signature is None
    assert error.total_bytes == len(harness.data(job))


async def test_job_keeps_its_receipt_when_a_later_link_negotiates_none() -> None:
    backend = ScriptedBackend()
    receipts = ReceiptIssuer(KEY.sign)
    receipts.negotiated([FEATURE])
    harness = JobsHarness(backend, receipts=receipts)
    job, run = await start_job(harness, backend)

    receipts.negotiated([])
    run.answer(b"x")

    assert (await harness.end(job)).receipt is not None
