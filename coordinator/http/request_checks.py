"""Refuses requests of web pages, and bodies that are not plain JSON."""

from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from provider_agent.coordinator.http.client_errors import ClientError, error_of_reason
from provider_agent.coordinator.reason import Reason

_WEB_PAGE: Final = ClientError(
    HTTPStatus.FORBIDDEN,
    "origin_not_allowed",
    "Web pages may not send requests here (the request has an `Origin` header).",
)


def refused_origin(request: web.Request) -> ClientError | None:
    """Refuse a request of a web page: browsers state a page's origin with each POST."""
    return _WEB_PAGE if hdrs.ORIGIN in request.headers else None


def refused_body(request: web.Request) -> ClientError | None:
    """Refuse a body by its headers, before it is read.

    A page can send three media types, or none, to any address without asking first (Fetch Standard,
    CORS-safelisted request-header), but not `application/json`.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.strip().lower() != "identity":
        return error_of_reason(Reason.COMPRESSED_BODY)
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0]
    is_json = media_type.strip().lower() == "application/json"
    return None if is_json else error_of_reason(Reason.CONTENT_TYPE)
