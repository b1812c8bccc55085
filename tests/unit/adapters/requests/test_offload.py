import asyncio
import threading

import pytest

from provider_agent.adapters.base import BadRequest
from provider_agent.adapters.requests import offload
from tests.kit.virtual_time import in_virtual_time

SMALL = b'{"prompt":"tools, schemas and formats"}'.ljust(offload.INLINE_BYTES)
LARGE = bytes(offload.INLINE_BYTES + 1)
GRAMMARS = [
    *(b'{"tools":[]}', b'{"response_format":{}}', b'{"json_schema":{}}', b'{"guided_json":{}}'),
    *(b'{"ebnf":"root ::= a"}', rb'{"ebnf":"root \u003a:= a"}', b'{"structured_outputs":{}}'),
]


@pytest.mark.parametrize("request_body", [SMALL, LARGE, *GRAMMARS])
def test_work_on_large_requests_grammars_and_schemas_runs_in_a_thread(request_body: bytes) -> None:
    @in_virtual_time
    async def run() -> None:
        thread = await offload.call(threading.current_thread, request_body)
        assert (thread is threading.main_thread()) == (request_body is SMALL)

    run()


@pytest.mark.parametrize("request_body", [SMALL, LARGE])
def test_error_of_the_work_is_raised(request_body: bytes) -> None:
    def refuse() -> None:
        raise BadRequest("no")

    @in_virtual_time
    async def run() -> None:
        with pytest.raises(BadRequest, match="no"):
            await offload.call(refuse, request_body)

    run()


@in_virtual_time
async def test_event_loop_runs_while_a_large_request_is_prepared() -> None:
    may_end = threading.Event()
    work = asyncio.create_task(offload.call(may_end.wait, LARGE))

    await asyncio.sleep(0)
    assert not work.done()
    may_end.set()

    assert await work
