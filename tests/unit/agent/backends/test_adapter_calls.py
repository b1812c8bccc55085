import asyncio
import contextlib
import gc

import pytest

from provider_agent.agent.backends.adapter_calls import call_within
from tests.kit.scripted_backend import ScriptedBackend


async def test_failure_of_a_call_whose_caller_is_cancelled_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_fail = asyncio.Event()

    async def fail() -> None:
        await may_fail.wait()
        raise OSError

    caller = asyncio.create_task(call_within(60, ScriptedBackend(), fail))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now `fail` waits
    may_fail.set()
    caller.cancel()  # the caller and `fail` run in the same step of the event loop
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    del caller
    gc.collect()
    assert caplog.messages == []
