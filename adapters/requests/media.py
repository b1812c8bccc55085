"""Rules for the media in messages: URLs, which the server fetches, and data in the request itself.

vLLM, SGLang and llama.cpp fetch every URL in a message from their own network and follow redirects:
a client could reach services that only the operator's machines can. By default a URL sent to a
native server must be a `data:` URL. A remote service fetches URLs from its own network.
"""

from typing import Final

import msgspec
from msgspec import Raw

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.rules import Object, Review, Shapes, decode_string
from provider_agent.protocol.limits import KIB

_LONGEST_URL: Final = 8 * KIB
"""A longer URL must begin with a literal `data:`, so that it need not be decoded."""

_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-"


class Url(msgspec.Struct, frozen=True):
    """A URL of an allowed scheme."""

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        text = memoryview(value)
        if bytes(text[:6]) == b'"data:':
            return value
        url = decode_string(value) if text.nbytes <= _LONGEST_URL else ""
        if not url.startswith(review.url_schemes):
            allowed = " or ".join(review.url_schemes)
            raise RefusedRequest(
                f"{name}: this provider accepts only URLs that begin with {allowed}"
            )
        return value


class Base64(msgspec.Struct, frozen=True):
    """Base64 or a `data:` URL: data that a server cannot take for a URL that it fetches.

    Only the first bytes are checked; a scheme is not base64, because it ends with a colon.
    """

    def check(self, value: Raw, name: str, review: Review) -> object:  # noqa: ARG002
        """See `Rule.check`."""
        start = bytes(memoryview(value)[1:61])
        # PHP writes each `/` as `\/`; the slice may end between the two characters.
        start = start.replace(b"\\/", b"/").removesuffix(b"\\")
        if not start.startswith(b"data:") and start.translate(None, _BASE64) not in (b"", b'"'):
            raise RefusedRequest(f"{name} is not base64")
        return value


URL: Final = Shapes(string=Url())
DATA: Final = Shapes(string=Base64())
URL_OBJECT: Final = Shapes(
    string=Url(), mapping=Object({"url": URL, "detail": None, "format": None})
)
"""`image_url` and similar: an object with a URL, or the URL itself."""
