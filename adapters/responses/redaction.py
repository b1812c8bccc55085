"""Takes secrets out of text that leaves the machine or the process: logs, upstream error bodies.

Two nets: the secrets that are known by value, and what looks like a key to anybody. A false alarm
costs a word of a log line; a miss costs the operator's account. Pure functions.
"""

import re
from collections.abc import Collection
from typing import Final

MIN_SECRET_CHARS: Final = 6
"""A shorter "secret" would black out ordinary words."""

_SLACK_BYTES: Final = 4096
"""How far past the limit a body is still read, so that a key across the limit is seen whole."""

_PLACEHOLDER: Final = "[redacted]"

# Every pattern is linear: single character classes, no nested repetition.
_KEYED: Final = re.compile(
    r"""(?P<name>(?:x-api-key|api[-_]?key|authorization|token|secret|password|key)
        ["']?\s{0,3}[:=]\s{0,3}["']?)
        (?!(?:bearer|basic)\s)
        (?P<value>[A-Za-z0-9+/_=.~-]{16,})""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_HEADER: Final = re.compile(
    r"""(?P<name>\bx-api-key["']?\s{0,3}[:=]\s{0,3}["']?)(?P<value>[^\s"',;]+)""",
    re.IGNORECASE | re.ASCII,
)
_SCHEME: Final = re.compile(
    r"\b(?P<name>bearer|basic)\s{1,3}(?P<value>[A-Za-z0-9+/_=.~-]{6,})", re.IGNORECASE | re.ASCII
)
_PREFIXED: Final = re.compile(
    r"""\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{6,}[.*A-Za-z0-9_-]*  # OpenAI, Anthropic, OpenRouter
      | \b(?:hf|gsk|xai|ghp)_[A-Za-z0-9]{12,}
      | \b(?:user|org|acct)[-_][A-Za-z0-9]{16,}               # account ids in error bodies
      | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]{10,}          # JSON web tokens
    """,
    re.VERBOSE | re.ASCII,
)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}KEY-----[^-]{0,8192}(?:-----END [A-Z0-9 ]{0,40}-----)?"
)
_USERINFO: Final = re.compile(r"(?P<name>://)[^\s/@:\"']{0,256}:[^\s/@\"']{1,256}@")


def redact(text: str, secrets: Collection[str]) -> str:
    """`text` with every known secret and whatever looks like a key replaced by `[redacted]`.

    Args:
        text: for people; any content.
        secrets: known values; those under `MIN_SECRET_CHARS` are left out.
    """
    # Longest first: a secret that contains another one goes whole.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS and secret in text:
            text = text.replace(secret, _PLACEHOLDER)
    text = _PEM.sub(_PLACEHOLDER, text)
    text = _USERINFO.sub(rf"\g<name>{_PLACEHOLDER}@", text)
    text = _SCHEME.sub(rf"\g<name> {_PLACEHOLDER}", text)
    text = _HEADER.sub(rf"\g<name>{_PLACEHOLDER}", text)
    text = _KEYED.sub(rf"\g<name>{_PLACEHOLDER}", text)
    return _PREFIXED.sub(_PLACEHOLDER, text)


def redact_bytes(body: bytes, limit: int, secrets: Collection[str]) -> bytes:
    """The first `limit` bytes of an upstream error, without secrets.

    Bytes that are part of no secret are kept as they are, whatever their encoding. When the body
    was cut by its reader, pass what there is: a known secret that is cut off at its end goes too.
    """
    # Latin-1 maps every byte to one character and back, so nothing is lost on the way.
    text = body[: limit + _SLACK_BYTES].decode("latin-1")
    as_latin = [secret.encode().decode("latin-1") for secret in secrets]
    clean = redact(text, as_latin)
    return _drop_partial_secret(clean, as_latin).encode("latin-1")[:limit]


def _drop_partial_secret(text: str, secrets: Collection[str]) -> str:
    """`text` without a beginning of a known secret at its very end."""
    cut = len(text)
    for secret in secrets:
        for length in range(len(secret) - 1, MIN_SECRET_CHARS - 1, -1):
            if text.endswith(secret[:length]):
                cut = min(cut, len(text) - length)
                break
    return text[:cut]
