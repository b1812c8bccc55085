from pathlib import Path

import msgspec

from agent.config import BackendConfig, masked, resolve_api_key, secret_values
from tests.unit.agent.test_config_load import MINIMAL, load

SECRETS = """enrollment_code = "POD-ENROLL-1234"
proxy = "http://user:proxy-password@proxy.example:3128"
[[backends]]
kind = "openrouter"
api_key_env = "ROUTER_KEY"
"""


def test_an_api_key_comes_from_its_variable() -> None:
    backend = BackendConfig(kind="venice", api_key_env="K")
    assert resolve_api_key(backend, {"K": " secret\n"}) == "secret"
    assert resolve_api_key(backend, {"K": " "}) is None
    assert resolve_api_key(backend, {}) is None
    assert resolve_api_key(BackendConfig(kind="ollama"), {"K": "secret"}) is None


def test_shown_settings_hold_no_secret(tmp_path: Path) -> None:
    environ = {"ROUTER_KEY": "router-key-value"}
    config = load(tmp_path, MINIMAL + SECRETS, environ).config
    shown = msgspec.json.encode(masked(config)).decode()
    assert '"enrollment_code":"[set]"' in shown
    assert '"api_key_env":"ROUTER_KEY"' in shown
    assert "[set]@proxy.example:3128" in shown
    for secret in secret_values(config, environ):
        assert secret not in shown
        assert secret not in repr(config)


def test_all_secrets_are_known_for_redaction(tmp_path: Path) -> None:
    environ = {"ROUTER_KEY": "router-key-value"}
    config = load(tmp_path, MINIMAL + SECRETS, environ).config
    assert secret_values(config, environ) == {
        "POD-ENROLL-1234",
        "proxy-password",
        "router-key-value",
    }
    assert secret_values(load(tmp_path).config, {}) == frozenset()


def test_settings_without_secrets_are_shown_as_they_are(tmp_path: Path) -> None:
    shown = masked(load(tmp_path).config)
    assert shown["coordinator"] == {
        "url": "wss://c.example/provider/connect",
        "fallback_urls": (),
        "enrollment_code": None,
        "allow_insecure": False,
        "token_file": None,
        "ca_file": None,
        "client_cert_file": None,
        "client_key_file": None,
        "proxy": None,
    }
