"""Builds HTTP responses: errors of the coordinator, and the start of relayed ones."""

from http import HTTPStatus
from typing import Final

from aiohttp import web

from provider_agent.coordinator.agents.dispatcher import MAX_RETRY_S
from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.coordinator.http.error_bodies import render_body
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import JobStarted
from provider_agent.protocol.response_headers import client_headers, valid_content_type

_BODILESS: Final = frozenset(
    {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
)


def request_id_headers(wire_format: WireFormat, request_id: str) -> dict[str, str]:
    """Return the request id, in the headers that the official clients read."""
    headers = {"x-request-id": request_id}
    if wire_format is WireFormat.ANTHROPIC:
        headers["request-id"] = request_id
    return headers


def error_response(
    wire_format: WireFormat, error: ClientError, request_id: str | None = None
) -> web.Response:
    """Return an error as a complete HTTP response."""
    headers = {} if request_id is None else request_id_headers(wire_format, request_id)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return web.Response(
        status=error.status,
        body=render_body(wire_format, error),
        content_type="application/json",
        headers=headers,
    )


def json_response(body: bytes, status: int = HTTPStatus.OK) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(status=status, body=body, content_type="application/json")


class _RelayedResponse(web.StreamResponse):
    # As aiohttp's own `Response`: the head is sent in one packet with the first bytes.
    _send_headers_immediately = False


def relayed_response(started: JobStarted, headers: dict[str, str]) -> web.StreamResponse:
    """Return the response to which the bytes of a job are written."""
    content_type = valid_content_type(started.content_type)  # a line break would inject headers
    for header in client_headers((header.name, header.value) for header in started.headers):
        # `x-request-id` is the coordinator's; the server's id is sent under another name.
        is_id = header.name in ("x-request-id", "request-id")
        headers["x-upstream-request-id" if is_id else header.name] = header.value
    _limit_retry_after(headers)
    headers["Content-Type"] = content_type
    headers["Cache-Control"] = "no-cache"
    if content_type.lower().startswith("text/event-stream"):
        headers["X-Accel-Buffering"] = "no"
    return _RelayedResponse(status=started.status, headers=headers)


def _limit_retry_after(headers: dict[str, str]) -> None:
    """Limit a relayed `Retry-After` as that of an error; remove one that is not in seconds."""
    value = headers.pop("retry-after", "")
    if value.isdecimal():
        headers["Retry-After"] = str(min(int(value), MAX_RETRY_S))


def can_have_body(status: int) -> bool:
    """Whether a response with this status can have a body."""
    return status >= HTTPStatus.OK and status not in _BODILESS
