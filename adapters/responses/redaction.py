"""Removes secrets from text that leaves the process: logs and upstream error bodies.

It replaces secrets that are known by value, and text that matches a pattern below: keys, tokens,
logins in URLs, account ids. A false positive costs a word of a log line; a miss costs the
operator's account.
"""

import re
from collections.abc import Collection
from typing import Final

MIN_SECRET_CHARS: Final = 6
"""Shorter secrets are not replaced: they would match parts of ordinary words."""

_SLACK_BYTES: Final = 4096
"""`redact_bytes` searches this far beyond its limit, to find a secret that crosses the limit."""

_PLACEHOLDER: Final = "[redacted]"

# Every pattern takes linear time: each repetition is over one character class, and no required part
# follows an unbounded repetition. So an attempt that fails has scanned a bounded number of
# characters, and the search continues after a match, not inside it.
_NAMED_VALUE: Final = re.compile(
    r"""(?P<name>(?:api[-_]?key|authorization|token|secret|password|key)
        ["']?\s{0,3}[:=]\s{0,3}["']?)
        (?P<value>[A-Za-z0-9+/_=.~-]{16,})""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
# The header of Anthropic's API holds nothing but a key, so a value of any length is one.
_API_KEY_HEADER: Final = re.compile(
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
      | \beyJ[A-Za-z0-9_.-]{21,}                              # JSON web tokens
    """,
    re.VERBOSE | re.ASCII,
)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}KEY-----[^-]{0,8192}(?:-----END [A-Z0-9 ]{0,40}-----)?"
)
_USERINFO: Final = re.compile(r"(?P<name>://)[^\s/@:\"']{0,256}:[^\s/@\"']{1,256}@")

_WORDS: Final = (
    *("-----begin", "@", "bearer", "basic"),
    *("key", "authorization", "token", "secret", "password"),
    *("sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "hf_", "gsk_", "xai_", "ghp_"),
    *("user-", "user_", "org-", "org_", "acct-", "acct_", "eyj"),
)
"""Every text that a pattern above matches contains one of these in lower case. Searching for each
is much cheaper than six substitutions, or than one search for a combined pattern."""


def is_clean(text: str, secrets: Collection[str]) -> bool:
    """Whether `redact` would certainly change no part of a text.

    Args:
        text: any content.
        secrets: known values, as for `redact`.
    """
    if any(len(secret) >= MIN_SECRET_CHARS and secret in text for secret in secrets):
        return False
    return not _may_match(text)


def redact(text: str, secrets: Collection[str]) -> str:
    """Replace every known secret, and text that matches a pattern of a secret, by `[redacted]`.

    Args:
        text: any content.
        secrets: known values; those shorter than `MIN_SECRET_CHARS` are ignored.
    """
    # Longest first, so that a secret that contains another one is replaced completely.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS and secret in text:
            text = text.replace(secret, _PLACEHOLDER)
    if not _may_match(text):
        return text
    text = _PEM.sub(_PLACEHOLDER, text)
    text = _USERINFO.sub(rf"\g<name>{_PLACEHOLDER}@", text)
    text = _SCHEME.sub(rf"\g<name> {_PLACEHOLDER}", text)
    text = _API_KEY_HEADER.sub(rf"\g<name>{_PLACEHOLDER}", text)
    text = _NAMED_VALUE.sub(rf"\g<name>{_PLACEHOLDER}", text)
    return _PREFIXED.sub(_PLACEHOLDER, text)


def _may_match(text: str) -> bool:
    lower = text.lower()
    for word in _WORDS:  # noqa: SIM110 - `any` would take twice as long
        if word in lower:
            return True
    return False


def redact_bytes(body: bytes, limit: int, secrets: Collection[str]) -> bytes:
    """Redact an upstream error body, then cut it to `limit` bytes, possibly inside a placeholder.

    Bytes outside the redacted text stay as they are, in any encoding. The caller may have cut the
    body inside a known secret: if the last characters (at least `MIN_SECRET_CHARS`) are the start
    of one, they are removed too.
    """
    # Latin-1 maps every byte to one character and back.
    text = body[: limit + _SLACK_BYTES].decode("latin-1")
    encoded = [secret.encode().decode("latin-1") for secret in secrets]
    clean = redact(text, encoded)
    return _drop_partial_secret(clean, encoded).encode("latin-1")[:limit]


def _drop_partial_secret(text: str, secrets: Collection[str]) -> str:
    """Cut off last characters that are the start of a secret, if `MIN_SECRET_CHARS` or more."""
    cut = len(text)
    for secret in secrets:
        for length in range(len(secret) - 1, MIN_SECRET_CHARS - 1, -1):
            if text.endswith(secret[:length]):
                cut = min(cut, len(text) - length)
                break
    return text[:cut]
