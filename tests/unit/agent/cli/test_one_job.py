import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendSettings,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Usage,
)
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.cli.one_job import (
    AdapterFailed,
    OneJobResult,
    chat_request,
    explain,
    run_one_job,
    statistics,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import MAIN_OPERATION, Operation, WireFormat
from tests.kit.scripted_backend import ScriptedBackend

JOB = OneJobResult(total_bytes=9, duration_ms=20, first_byte_ms=10, usage=Usage(3, 4))


@pytest.mark.parametrize("wire_format", WireFormat)
async def test_text_is_passed_on_while_it_streams(wire_format: WireFormat) -> None:
    shown: list[str] = []

    ended = await run_one_job(
        EchoBackend(BackendSettings(kind="echo")),
        MAIN_OPERATION[wire_format],
        "echo",
        "three small words",
        max_tokens=8,
        timeout_s=10,
        on_text=shown.append,
    )

    assert "".join(shown) == "three small words"
    assert len(shown) == 3
    assert ended.usage.output_tokens == 3


async def test_job_has_operation_deadline_and_request() -> None:
    backend = ScriptedBackend()
    running = asyncio.create_task(
        run_one_job(backend, Operation.MESSAGES, "m", "hi", max_tokens=5, timeout_s=2.5)
    )
    run = await backend.next_run()
    run.answer()
    await running

    assert (run.job.model_id, run.job.format, run.job.operation) == ("m", "anthropic", "messages")
    assert run.job.deadline_ms == 2500
    assert msgspec.json.decode(run.job.request) == {
        "model": "m",
        "max_tokens": 5,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }


async def test_job_is_stopped_after_the_timeout() -> None:
    backend = ScriptedBackend()

    with pytest.raises(BackendTimeout, match=r"did not end within 0 s"):
        await run_one_job(backend, Operation.CHAT, "m", "hi", max_tokens=5, timeout_s=0.001)

    assert backend.runs[0].cancelled.is_set()


async def test_cancellation_stops_the_job() -> None:
    backend = ScriptedBackend()
    running = asyncio.create_task(
        run_one_job(backend, Operation.CHAT, "m", "hi", max_tokens=5, timeout_s=60)
    )
    run = await backend.next_run()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert run.cancelled.is_set()


@pytest.mark.parametrize("defect", [RuntimeError("x"), asyncio.CancelledError(), SystemExit(9)])
async def test_defect_of_the_adapter_fails_the_job(defect: BaseException) -> None:
    # In an earlier version, such a defect made `check` print a traceback, not its findings.
    backend = ScriptedBackend()
    running = asyncio.create_task(
        run_one_job(backend, Operation.CHAT, "m", "hi", max_tokens=5, timeout_s=60)
    )
    (await backend.next_run()).fail(defect)

    with pytest.raises(AdapterFailed, match="the adapter raised"):
        await running


async def test_adapter_that_returns_without_a_response_fails_the_job() -> None:
    backend = ScriptedBackend()
    running = asyncio.create_task(
        run_one_job(backend, Operation.CHAT, "m", "hi", max_tokens=5, timeout_s=60)
    )
    (await backend.next_run()).finish()

    with pytest.raises(AdapterFailed, match="returned without a response"):
        await running


def test_operation_without_chat_messages_is_refused() -> None:
    with pytest.raises(ValueError, match="embeddings does not accept chat messages"):
        chat_request(Operation.EMBEDDINGS, "m", "hi", max_tokens=1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "first byte after 10 ms, tokens 3 in, 4 out, 9 bytes"),
        (
            {"usage": Usage(None, 0)},
            "first byte after 10 ms, tokens unknown in, 0 out, 9 bytes",
        ),
        ({"first_byte_ms": None, "total_bytes": 0}, "no bytes, tokens 3 in, 4 out, 0 bytes"),
    ],
)
def test_statistics_distinguish_unknown_from_zero(changes: dict[str, object], text: str) -> None:
    assert statistics(replace(JOB, **changes)) == text


def test_explanation_is_one_bounded_line_with_the_servers_message() -> None:
    body = b'{"error":\n  "no \xff such model"}' + b"x" * 1000

    text = explain(BadStatus(404, body, ErrorCode.MODEL_NOT_LOADED))

    assert text.startswith(
        'model_not_loaded: the server answered with status 404: {"error": "no \ufffd such model"}xx'
    )
    assert "\n" not in text
    assert len(text) < 400


def test_explanation_of_an_error_without_a_body_is_code_and_message() -> None:
    assert explain(InvalidResponse("it ended early")) == "invalid_response: it ended early"
