from contextlib import nullcontext

import pytest

from provider_agent.adapters.base import BadStatus, InvalidResponse, Transport
from tests.kit.raw_jobs import backend_at
from tests.kit.raw_server import AfterReply, RawServer, Reply, whole
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.conftest import a_job


@pytest.mark.parametrize("answered", [2, 3])
@in_virtual_time
async def test_api_request_is_sent_twice_at_most(answered: int) -> None:
    replies = [*[Reply(then=AfterReply.CLOSE)] * (answered - 1), whole({})]
    async with RawServer(replies) as server, backend_at(server.url) as backend:
        with nullcontext() if answered == 2 else pytest.raises(Transport):
            await backend.request("POST", "/api/show", json={})

    assert len(server.requests) == 2


@in_virtual_time
async def test_response_that_is_not_http_is_invalid() -> None:
    reply = Reply(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", AfterReply.CLOSE)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        with pytest.raises(InvalidResponse):
            await backend.execute(a_job("m"), CollectingSink())


@in_virtual_time
async def test_truncated_error_body_keeps_its_status() -> None:
    half = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{half"
    reply = Reply(half, AfterReply.CLOSE)
    async with RawServer([reply]) as server, backend_at(server.url) as backend:
        with pytest.raises(BadStatus) as caught:
            await backend.execute(a_job("m"), CollectingSink())

    assert caught.value.status == 400
    assert caught.value.body == b"{half"
