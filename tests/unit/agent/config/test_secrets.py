from pathlib import Path

import msgspec
import pytest

from provider_agent.agent.cli.init.document import Answers
from provider_agent.agent.config import (
    BackendConfig,
    masked,
    missing_key,
    resolve_api_key,
    secret_values,
)
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.secrets import MAX_SECRET_BYTES
from provider_agent.agent.link.dial import DialSettings
from tests.unit.agent.config.loading import MINIMAL, load

SECRETS = """enrollment_code = "POD-ENROLL-1234"
proxy = "http://user:proxy-password@proxy.example:3128"
[[backends]]
kind = "openrouter"
api_key_env = "ROUTER_KEY"
"""


def test_api_key_is_read_from_its_variable() -> None:
    backend = BackendConfig(kind="venice", api_key_env="K")
    assert resolve_api_key(backend, {"K": " secret\n"}) == "secret"
    assert resolve_api_key(backend, {"K": " "}) is None
    assert resolve_api_key(backend, {}) is None
    assert resolve_api_key(BackendConfig(kind="ollama"), {"K": "secret"}) is None


def test_api_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b" sk-1\r\n")
    backend = BackendConfig(kind="venice", api_key_file=file)
    assert resolve_api_key(backend, {}) == "sk-1"
    file.write_bytes(b"sk-2")
    assert resolve_api_key(backend, {}) == "sk-2"
    file.write_bytes(b"k" * MAX_SECRET_BYTES)
    assert resolve_api_key(backend, {}) == "k" * MAX_SECRET_BYTES


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"sk-secret\nsk-second", "does not hold a key: one line of plain text is expected"),
        (b"sk-secret\x00", "does not hold a key: one line of plain text is expected"),
        (b"sk-secret\xff", "does not hold a key: one line of plain text is expected"),
        (b"k" * (MAX_SECRET_BYTES + 1), "does not hold a key: one line of plain text is expected"),
    ],
)
def test_reason_for_a_missing_key_does_not_contain_the_content_of_the_file(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    backend = BackendConfig(kind="venice", api_key_file=file)
    assert resolve_api_key(backend, {}) is None
    assert missing_key(backend) == f"the file {file} (api_key_file) {reason}"


def test_content_of_a_key_file_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("file-key-value", "utf-8")
    table = '[[backends]]\nkind = "venice"\napi_key_file = "$CREDENTIALS_DIRECTORY/key"\n'
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = load(tmp_path, MINIMAL + table, environ).config
    assert secret_values(config, environ) == {"file-key-value"}
    shown = msgspec.json.encode(masked(config)).decode()
    assert str(tmp_path / "key") in shown
    assert "file-key-value" not in shown + repr(config)


def test_content_of_the_token_file_is_a_secret(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("an-unusual-token\n", "utf-8")
    config = load(tmp_path, MINIMAL + f'token_file = "{token}"\n').config
    assert secret_values(config, {}) == {"an-unusual-token"}
    token.unlink()
    assert secret_values(config, {}) == frozenset()


def test_masked_settings_contain_no_secret(tmp_path: Path) -> None:
    environ = {"ROUTER_KEY": "router-key-value"}
    config = load(tmp_path, MINIMAL + SECRETS, environ).config
    shown = msgspec.json.encode(masked(config)).decode()
    assert '"enrollment_code":"[set]"' in shown
    assert '"api_key_env":"ROUTER_KEY"' in shown
    assert "[set]@proxy.example:3128" in shown
    for secret in secret_values(config, environ):
        assert secret not in shown
        assert secret not in repr(config)


def test_secret_values_contains_all_secrets(tmp_path: Path) -> None:
    environ = {"ROUTER_KEY": "router-key-value"}
    config = load(tmp_path, MINIMAL + SECRETS, environ).config
    assert secret_values(config, environ) == {
        "POD-ENROLL-1234",
        "proxy-password",
        "router-key-value",
    }
    assert secret_values(load(tmp_path).config, {}) == frozenset()


ADDRESS = "wss://c.example/provider/connect"


def test_queries_of_coordinators_and_users_of_proxies_are_not_shown(tmp_path: Path) -> None:
    toml = f"""[coordinator]
        url = "{ADDRESS}?token=query-secret"
        fallback_urls = ["{ADDRESS}/2?fallback-secret"]
        proxy = "http://proxy-secret@proxy.example:3128"
    """
    config = load(tmp_path, toml).config
    shown = masked(config)["coordinator"]
    assert isinstance(shown, dict)
    assert shown["url"] == f"{ADDRESS}?[set]"
    assert shown["fallback_urls"] == (f"{ADDRESS}/2?[set]",)
    assert shown["proxy"] == "http://[set]@proxy.example:3128"
    dialed = DialSettings.of(config.coordinator, config.coordinator.url)
    assert "-secret" not in repr((config, dialed, Answers(config.coordinator.url)))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (ADDRESS, ADDRESS),
        (f"{ADDRESS}@v1?a=b?c", f"{ADDRESS}@v1?[set]"),
        ("http://user:pass?word@host/path@2", "http://[set]@host/path@2"),
        ("", ""),
    ],
)
def test_shown_address_has_no_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_masked_settings_without_secrets_are_unchanged(tmp_path: Path) -> None:
    shown = masked(load(tmp_path).config)
    assert shown["coordinator"] == {
        "url": "wss://c.example/provider/connect",
        "fallback_urls": (),
        "dialect": None,
        "enrollment_code": None,
        "allow_insecure": False,
        "token_file": None,
        "ca_file": None,
        "client_cert_file": None,
        "client_key_file": None,
        "proxy": None,
        "coalesce_ms": 1.0,
    }
