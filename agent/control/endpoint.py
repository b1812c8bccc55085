"""The local control of the status server: `POST /control`, only from this machine, only signed.

A web page cannot use it, even through a name that it has pointed at loopback: it cannot sign.
The other checks refuse it before anything is read.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from aiohttp import web

from provider_agent.agent.control.commands import Command, Commands, Reply
from provider_agent.agent.control.signature import (
    PATH,
    SIGNATURE_HEADER,
    TIME_HEADER,
    SignatureCheck,
)
from provider_agent.agent.local_requests import is_local

MAX_BODY_BYTES: Final = 4096
"""More than any command."""

BODY_TIMEOUT_S: Final = 3.0
"""Commands come from this machine."""

_BROWSER_HEADERS: Final = ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode")
"""Headers that no web page can leave out, or forge."""


class ControlEndpoint:
    """Checks and carries out commands.

    Args:
        check: checks their signatures.
        commands: carries them out.
    """

    def __init__(self, check: SignatureCheck, commands: Commands) -> None:
        self._check = check
        self._commands = commands

    async def respond(self, request: web.BaseRequest, headers: Mapping[str, str]) -> web.Response:
        """Return the response to a request for `PATH`; its body is a `Reply`."""
        status, reply = await self._reply(request)
        body = msgspec.json.encode(reply)
        response = web.Response(status=status, body=body, content_type="application/json")
        response.headers.update(headers)
        if request.method != "POST":
            response.headers["Allow"] = "POST"
        return response

    async def _reply(self, request: web.BaseRequest) -> tuple[int, Reply]:
        if not is_local(request.remote, request.headers):
            return 403, Reply(False, "commands are accepted only from the agent's own machine")
        if any(name in request.headers for name in _BROWSER_HEADERS):
            return 403, Reply(False, "commands are not accepted from web pages")
        if request.method != "POST":
            return 405, Reply(False, "commands are sent with POST")
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read_body(request)
        except TimeoutError:
            return 408, Reply(False, "the command did not arrive in time")
        if body is None:
            return 413, Reply(False, "the command is too long")
        transport = request.transport
        port = 0 if transport is None else transport.get_extra_info("sockname")[1]
        time_text = request.headers.get(TIME_HEADER, "")
        signature = request.headers.get(SIGNATURE_HEADER, "")
        if problem := self._check.problem(PATH, port, time_text, signature, body):
            return 401, Reply(False, problem)
        try:
            command = msgspec.json.decode(body, type=Command)
        except ValueError as error:
            return 400, Reply(False, f"the agent does not know this command: {error}")
        reply = await self._commands.carry_out(command)
        return 200 if reply.ok else 409, reply


async def _read_body(request: web.BaseRequest) -> bytes | None:
    """Return the body; None if it is too long."""
    body = b""
    async for data in request.content.iter_any():
        body += data
        if len(body) > MAX_BODY_BYTES:
            return None
    return body
