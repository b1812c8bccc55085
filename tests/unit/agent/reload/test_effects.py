import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from msgspec import structs

from provider_agent.agent.config import BackendConfig, Config, Price
from provider_agent.agent.config.load import known_keys
from provider_agent.agent.reload.effects import EFFECTS, Reload, ReloadEffect, decide_reload
from tests.kit.agent_config import agent_config

OLD = agent_config("wss://a.example/x")

NOW: dict[str, object] = {
    "operator.display_name": "rig",
    "operator.wallet": "w",
    "operator.contact_email": "ops@example.com",
    "backends": (BackendConfig(kind="echo"),),
    "pricing.default_input_per_1m": 1,
    "pricing.default_output_per_1m": 2,
    "pricing.models": {"m": Price(1, 2)},
    "limits.max_concurrent": 3,
    "limits.max_tokens_per_minute": 1000,
    "limits.drain_timeout_s": 7.0,
    "limits.slow_consumer_s": 9.0,
    "discovery.interval_s": 11.0,
    "discovery.liveness_interval_s": 12.0,
    "observability.log_level": "debug",
}
NEXT_CONNECTION: dict[str, object] = {
    "coordinator.url": "wss://b.example/x",
    "coordinator.fallback_urls": ("wss://c.example/x",),
    "coordinator.enrollment_code": "SECRET-CODE",
    "coordinator.allow_insecure": True,
    "coordinator.token_file": Path("token"),
    "coordinator.ca_file": Path("ca"),
    "coordinator.client_cert_file": Path("cert"),
    "coordinator.client_key_file": Path("key"),
    "coordinator.proxy": "http://proxy.example:1",
}
RESTART: dict[str, object] = {
    "identity.key_path": Path("other"),
    "observability.prometheus_addr": "127.0.0.1:1",
    "observability.log_format": "json",
    "observability.ledger_path": Path("ledger"),
}


def changed(**values: object) -> Config:
    """Return `OLD` with other values of these keys."""
    config = OLD
    for key, value in values.items():
        section, _, name = key.partition(".")
        new = structs.replace(getattr(config, section), **{name: value}) if name else value
        config = structs.replace(config, **{section: new})
    return config


def test_every_configuration_key_has_an_effect() -> None:
    assert set(EFFECTS) == set(known_keys())


def test_effects_match_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "operations.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", text, re.MULTILINE)
    documented = {when: re.findall(r"`([^`]+)`", keys) for when, keys in rows}

    for key, when in EFFECTS.items():
        places = [
            name for name, globs in documented.items() if any(fnmatch(key, one) for one in globs)
        ]
        assert places == [when]


@pytest.mark.parametrize(
    ("key", "value", "effect"),
    [
        *((key, value, ReloadEffect.NOW) for key, value in NOW.items()),
        *((key, value, ReloadEffect.NEXT_CONNECTION) for key, value in NEXT_CONNECTION.items()),
        *((key, value, ReloadEffect.RESTART) for key, value in RESTART.items()),
    ],
)
def test_changed_key_has_its_effect(key: str, value: object, effect: ReloadEffect) -> None:
    new = changed(**{key: value})

    decided = decide_reload(OLD, new)

    assert {name: getattr(decided, name) for name in ReloadEffect} == {
        name: (key,) if name is effect else () for name in ReloadEffect
    }
    assert decided.config == (OLD if effect is ReloadEffect.RESTART else new)
    assert not decided.changes_nothing


def test_effective_settings_keep_the_old_values_of_keys_that_need_a_restart() -> None:
    decided = decide_reload(OLD, changed(**NOW, **NEXT_CONNECTION, **RESTART))

    assert decided.config == changed(**NOW, **NEXT_CONNECTION)
    assert set(decided.applied) == set(NOW)
    assert set(decided.next_connection) == set(NEXT_CONNECTION)
    assert set(decided.needs_restart) == set(RESTART)


def test_key_that_needs_a_restart_is_reported_again() -> None:
    new = changed(**RESTART)
    second = decide_reload(decide_reload(OLD, new).config, new)

    assert set(second.needs_restart) == set(RESTART)


def test_unchanged_settings_change_nothing() -> None:
    assert decide_reload(OLD, changed()) == Reload(OLD)
    assert decide_reload(OLD, changed()).changes_nothing


@pytest.mark.parametrize("values", [{}, {"backends": NOW["backends"]}])
def test_changed_api_key_file_counts_as_changed_backends(values: dict[str, object]) -> None:
    assert decide_reload(OLD, changed(**values), other_backends=True).applied == ("backends",)
