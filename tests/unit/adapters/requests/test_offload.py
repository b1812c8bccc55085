import asyncio
import threading

import pytest

from provider_agent.adapters.base import BadRequest
from provider_agent.adapters.requests import offload
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_only_work_on_large_requests_runs_in_a_thread() -> None:
    small = await offload.call(threading.current_thread, offload.INLINE_BYTES)
    large = await offload.call(threading.current_thread, offload.INLINE_BYTES + 1)

    assert small is threading.main_thread()
    assert large is not threading.main_thread()


@pytest.mark.parametrize("size", [0, offload.INLINE_BYTES + 1])
def test_error_of_the_work_is_raised(size: int) -> None:
    def refuse() -> None:
        raise BadRequest("no")

    @in_virtual_time
    async def run() -> None:
        with pytest.raises(BadRequest, match="no"):
            await offload.call(refuse, size)

    run()


@in_virtual_time
async def test_event_loop_runs_while_a_large_request_is_prepared() -> None:
    may_end = threading.Event()
    work = asyncio.create_task(offload.call(may_end.wait, offload.INLINE_BYTES + 1))

    await asyncio.sleep(0)
    assert not work.done()
    may_end.set()

    assert await work
