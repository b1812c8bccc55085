"""A response that is read completely, by both HTTP clients."""

import asyncio

import pytest

from provider_agent.adapters.http.body_collector import BodyCollector
from tests.kit.raw_server import AfterReply, RawServer, Reply, chunked
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.http.recording_server import CLIENTS, REQUEST, client_of
from tests.unit.adapters.http.responses import CHUNKED


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_body_up_to_the_limit_is_complete(client_name: str) -> None:
    reply = Reply(CHUNKED + chunked(b"ab"), late=chunked(b"cd") + b"0\r\n\r\n")
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        response = BodyCollector(4)
        await client.exchange(REQUEST, response)

    assert (response.head.status, bytes(response.body), response.is_cut) == (200, b"abcd", False)


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_longer_body_is_cut_and_its_connection_closed(client_name: str) -> None:
    reply = Reply(CHUNKED + chunked(b"abc"), AfterReply.HANG, late=chunked(b"de"))
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        response = BodyCollector(4)
        async with asyncio.timeout(60):
            await client.exchange(REQUEST, response)
        await server.abandoned.wait()

    assert (bytes(response.body), response.is_cut) == (b"abcd", True)
