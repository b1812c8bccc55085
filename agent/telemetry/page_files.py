"""The files of the status page, and the headers that keep other web pages out."""

from importlib import resources
from typing import Final

from msgspec import Struct

_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page/status.css": ("status.css", "text/css"),
    "/page/status.js": ("status.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}

SECURITY_HEADERS: Final = {
    # Only files of this server; `trusted-types` turns assignments of HTML into errors.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every response of the status server."""


class PageFile(Struct, frozen=True):
    """One file of the page.

    Attributes:
        body: the content.
        content_type: the media type, without a charset.
    """

    body: bytes
    content_type: str


def read_page_files() -> dict[str, PageFile]:
    """Return the files by path; reads the disk."""
    folder = resources.files("provider_agent.agent.telemetry") / "page"
    return {
        path: PageFile((folder / name).read_bytes(), content_type)
        for path, (name, content_type) in _FILES.items()
    }
