"""The coordinator checks receipts against the bytes that it received, also over several links."""

import hashlib
import logging
from collections.abc import Callable

import pytest
from msgspec import structs

from provider_agent.coordinator.settings import ReceiptMode
from provider_agent.protocol.frames import Receipt
from provider_agent.protocol.receipts import FEATURE, ReceiptContent
from tests.kit.coordinator_harness import (
    NO_HEARTBEATS,
    CoordinatorHarness,
    coordinator_harness,
)
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob
from tests.kit.virtual_time import in_virtual_time

SETTINGS = structs.replace(NO_HEARTBEATS, receipts=ReceiptMode.SIGNED)
DATA = (b"data: 1\n\n", b"data: 2\n\n")
HASH = hashlib.sha256(b"".join(DATA)).digest()

MakeReceipt = Callable[[ScriptedAgent, ScriptedJob], Receipt | None]


def signed(agent: ScriptedAgent, job: ScriptedJob, **changes: object) -> Receipt:
    """A signed receipt. `changes` replace values of the job in the signed bytes."""
    content = ReceiptContent(job.job.job_id, "tiny", HASH, 3, 4)
    signature = agent.key.sign(structs.replace(content, **changes).signed_bytes())
    return Receipt(HASH, signature)


async def receive(harness: CoordinatorHarness, make_receipt: MakeReceipt) -> bytes:
    """Return the response to one request. The link is lost in the middle of the response."""
    job, response = await harness.start_response(DATA[0])
    await harness.agent.lose_link()
    await harness.agent.reconnect()
    await job.send(DATA[1])
    await job.finish(make_receipt(harness.agent, job))
    return DATA[0] + await response.read()


@in_virtual_time
async def test_valid_receipt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with coordinator_harness(SETTINGS, [FEATURE]) as harness:
        with caplog.at_level(logging.INFO):
            received = await receive(harness, signed)

    assert received == b"".join(DATA)
    (record,) = [one for one in caplog.records if one.message == "receipt"]
    fields = vars(record)["fields"]
    assert (fields["sha256"], fields["output_tokens"]) == (HASH.hex(), 4)


@pytest.mark.parametrize(
    "make_receipt",
    [
        pytest.param(lambda _agent, _job: None, id="no receipt"),
        pytest.param(lambda _agent, _job: Receipt(HASH), id="no signature"),
        pytest.param(lambda _agent, _job: Receipt(bytes(32), bytes(64)), id="another hash"),
        pytest.param(lambda agent, job: signed(agent, job, output_tokens=5), id="other usage"),
        pytest.param(lambda agent, job: signed(agent, job, model_id="big"), id="another model"),
    ],
)
@in_virtual_time
async def test_job_with_an_invalid_receipt_fails(
    make_receipt: MakeReceipt, caplog: pytest.LogCaptureFixture
) -> None:
    async with coordinator_harness(SETTINGS, [FEATURE]) as harness:
        received = await receive(harness, make_receipt)

    assert received.startswith(b"".join(DATA) + b'data: {"error"')
    assert b"invalid_response" in received
    assert "receipt not valid" in caplog.messages


@pytest.mark.parametrize(("sha256", "is_valid"), [(HASH, True), (bytes(32), False)])
@in_virtual_time
async def test_receipt_without_a_signature_is_valid_if_only_the_hash_is_wanted(
    sha256: bytes, is_valid: bool
) -> None:
    settings = structs.replace(SETTINGS, receipts=ReceiptMode.HASH)
    async with coordinator_harness(settings, [FEATURE]) as harness:
        received = await receive(harness, lambda _agent, _job: Receipt(sha256))

    assert (received == b"".join(DATA)) == is_valid


@in_virtual_time
async def test_agent_without_the_feature_needs_no_receipt() -> None:
    async with coordinator_harness(SETTINGS) as harness:
        assert await receive(harness, lambda _agent, _job: None) == b"".join(DATA)
