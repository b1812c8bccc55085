import asyncio
import json
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from provider_agent.adapters.base import BackendSettings, BadRequest, Job, Operation
from provider_agent.adapters.requests import grammars, offload
from provider_agent.adapters.servers.ollama import OllamaBackend
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.requests.prepared import raw_body

SMALL = bytes(offload.INLINE_BYTES)
LARGE = bytes(offload.INLINE_BYTES + 1)
ResultT = TypeVar("ResultT")


def call(work: Callable[[], ResultT], request: bytes) -> ResultT:
    """Run `offload.call`."""
    results = []

    @in_virtual_time
    async def run() -> None:
        results.append(await offload.call(work, request))

    run()
    return results[0]


@pytest.mark.parametrize("request_body", [SMALL, LARGE])
def test_work_on_large_requests_runs_in_a_thread(request_body: bytes) -> None:
    thread = call(threading.current_thread, request_body)

    assert (thread is threading.main_thread()) == (request_body is SMALL)


def test_work_that_requires_the_thread_is_started_again_in_it() -> None:
    threads = []

    def work() -> str:
        threads.append(threading.current_thread())
        try:
            offload.require_thread()
        except Exception:  # noqa: BLE001 - an adapter may handle all errors
            return "not in the thread"
        return "done"

    assert call(work, SMALL) == "done"
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


@pytest.mark.parametrize("request_body", [SMALL, LARGE])
def test_error_of_the_work_is_raised(request_body: bytes) -> None:
    def refuse() -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest, match="no"):
        call(refuse, request_body)
    offload.require_thread()  # has no effect after the call


@in_virtual_time
async def test_event_loop_runs_while_a_large_request_is_prepared() -> None:
    may_end = threading.Event()
    work = asyncio.create_task(offload.call(may_end.wait, LARGE))

    await asyncio.sleep(0)
    assert not work.done()
    may_end.set()

    assert await work


SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}


def prepared_in_event_loop(fields: object, operation: Operation = Operation.CHAT) -> bool:
    """Prepare a request for Ollama; return whether the event loop's thread prepared it."""
    backend = OllamaBackend(BackendSettings(kind="ollama"))
    backend._windows["m"] = 1_000_000
    body = json.dumps(fields).encode()
    job = Job(bytes(16), "m", operation.wire_format, body, 60_000, operation)

    def work() -> threading.Thread:
        backend.prepare(job, operation)
        return threading.current_thread()

    return call(work, body) is threading.main_thread()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "tools, schemas, formats " * 20_000}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}] * 300},
        {"prompt": list(range(1000))},
        {"documents": ["["]},
    ],
    ids=["text", "messages", "token ids", "documents"],
)
def test_usual_request_is_prepared_in_the_event_loop(fields: dict[str, object]) -> None:
    operation = Operation.COMPLETIONS if "prompt" in fields else Operation.CHAT

    assert prepared_in_event_loop(fields, operation)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2000}]},
        {"metadata": [0] * 2010},
        {"messages": [{"role": "user", "content": "x" * 33_000}], "temperature": 1e-300},
        {"documents": ["x" * 33_000]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"ebnf": "root ::= a\na ::= [a]"},
        {"guided_grammar": "root ::= a\na ::= [a]"},
    ],
    ids=lambda fields: str(fields)[:30],
)
def test_request_that_may_take_long_is_prepared_in_the_thread(
    fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "_CHECKED", {})

    assert not prepared_in_event_loop(fields)


def test_prompt_that_takes_long_to_count_is_counted_in_the_thread() -> None:
    backend = OllamaBackend(BackendSettings(kind="ollama"))
    backend._windows["m"] = 100_000
    body = b'{"messages":[{"role":"user","content":"' + b"word " * 30_000 + b'"}]}'
    job = Job(bytes(16), "m", "openai", body, 60_000)

    def work() -> threading.Thread:
        backend.prepare(job, Operation.CHAT)
        return threading.current_thread()

    assert call(work, body) is not threading.main_thread()


def test_schema_that_was_checked_before_is_prepared_in_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammars, "_CHECKED", {})
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}

    assert not prepared_in_event_loop({"tools": [tool]})
    assert prepared_in_event_loop({"tools": [tool, tool]})


def test_schema_whose_encoding_is_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit was that of the client's text, which may be four times shorter.
    checked: dict[object, object] = {}
    monkeypatch.setattr(grammars, "_CHECKED", checked)
    schema = b'{"enum":[' + b",".join([b"1e9"] * 900) + b"]}"

    raw_body("vllm", b'{"messages":[],"json_schema":' + schema + b"}")

    assert not checked
