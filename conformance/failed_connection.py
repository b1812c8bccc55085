"""The human-readable reason why a connection could not be opened."""

import os
import re
from typing import Final

import aiohttp

_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def describe(error: Exception) -> str:
    """Return the reason of an error, such as `connection refused`.

    asyncio's `OSError` has the text `[Errno 111] Connect call failed (…)`, once for each address
    that was tried. aiohttp's `ClientConnectorError` wraps that `OSError`.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        return describe(error.os_error)
    if isinstance(error, aiohttp.ClientError):
        return f"no HTTP response ({type(error).__name__})"
    numbers = _ERRNO.findall(str(error)) if isinstance(error, OSError) else []
    if numbers:
        text = ", ".join(dict.fromkeys(os.strerror(int(number)) for number in numbers))
    else:
        text = getattr(error, "strerror", None) or str(error) or "no answer"
    return text[:1].lower() + text[1:]
