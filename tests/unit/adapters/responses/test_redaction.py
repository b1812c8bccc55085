import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses import redaction
from provider_agent.adapters.responses.redaction import MIN_SECRET_CHARS, redact, redact_bytes

SECRET = "hunter22"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it was hunter22.", "it was [redacted]."),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic [redacted]"),
        ("x-api-key: short", "x-api-key: [redacted]"),
        ('{"x-api-key": "short"}', '{"x-api-key": "[redacted]"}'),
        ("provided: sk-or-v1-ab****xyz. You", "provided: [redacted] You"),
        ("key sk-proj-abc_DEF-123 refused", "key [redacted] refused"),
        ("?key=0123456789abcdef0123", "?key=[redacted]"),
        ('"token": "0123456789abcdef0123"', '"token": "[redacted]"'),
        ('{"user_id":"user_2abcdefghijklmnopqrst"}', '{"user_id":"[redacted]"}'),
        ("http://user:pass@proxy:1/", "http://[redacted]@proxy:1/"),
        ("jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0", "jwt [redacted]"),
        ("-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n!", "[redacted]\n!"),
    ],
)
def test_known_secrets_and_key_like_text_are_replaced(text: str, expected: str) -> None:
    assert redact(text, {SECRET}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the model `llama-3.1` does not exist",
        "tokens=12345 key=short",
        "risk-averse task-force disk-something",
        "max_tokens: 4096 exceeds the context length of 2048 tokens",
        "https://host.example/path:1@x",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redact(text, {SECRET}) == text


def test_longest_matching_secret_is_replaced() -> None:
    assert redact("hunter22-long", {SECRET, "hunter22-long"}) == "[redacted]"


def test_short_secrets_are_ignored() -> None:
    assert redact("the cat", {"cat", ""}) == "the cat"


@given(st.binary(max_size=200), st.integers(0, 300))
def test_body_is_cut_to_the_limit(body: bytes, limit: int) -> None:
    assert len(redact_bytes(body, limit, {SECRET})) <= limit


# Random bytes without these characters practically never contain a secret.
@given(st.binary(max_size=64).filter(lambda body: not any(b in body for b in b"-=:@ hu")))
def test_bytes_without_a_secret_are_unchanged(body: bytes) -> None:
    assert redact_bytes(body, 64, {SECRET}) == body


@given(st.text(max_size=30), st.text("éxyz", min_size=MIN_SECRET_CHARS, max_size=20))
def test_known_secret_is_removed_from_any_text(text: str, secret: str) -> None:
    body = f"{text} {secret} {text}".encode()
    assert secret.encode() not in redact_bytes(body, 1000, {secret})


def test_secret_across_the_limit_is_removed_completely() -> None:
    body = b"a" * 96 + SECRET.encode() + b"b" * 100
    assert redact_bytes(body, 100, {SECRET}) == b"a" * 96 + b"[red"


def test_truncated_secret_at_the_end_is_removed() -> None:
    assert redact_bytes(b"error: hunter2", 100, {SECRET}) == b"error: "


@pytest.mark.parametrize(
    "piece",
    # In a repeated "eyJ-", each piece begins a word, so a match may start at each of them. In a
    # repeated "eyJ", a match may start only at the first.
    [
        "-----BEGIN ",
        "-----BEGIN KEY-----",
        "://a:",
        "Bearer ",
        "key=",
        "sk-",
        "eyJ",
        "eyJ-",
        "key : ",
    ],
)
def test_redaction_takes_linear_time(piece: str) -> None:
    # A pattern that scans the rest of the text at each piece would exceed the test's timeout.
    redact(piece * 200_000, {SECRET})


PATTERNS = ["_PEM", "_USERINFO", "_SCHEME", "_API_KEY_HEADER", "_NAMED_VALUE", "_PREFIXED"]


@pytest.mark.parametrize("name", PATTERNS)
@given(data=st.data())
def test_search_before_the_substitutions_finds_every_match(name: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(getattr(redaction, name)))
    assert redaction._may_match(text)
    assert "[redacted]" in redact(text, ())


def test_every_pattern_is_searched_for() -> None:
    compiled = {name for name, value in vars(redaction).items() if isinstance(value, re.Pattern)}
    assert compiled == set(PATTERNS)
