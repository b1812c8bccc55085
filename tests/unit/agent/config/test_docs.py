"""Every key is documented, can be set by a variable, and occurs in `agent.example.toml`."""

import re
import tomllib
from pathlib import Path

import pytest

from provider_agent.adapters.registry import BUILT_IN_KINDS, backend_class
from provider_agent.agent.config import (
    BackendConfig,
    Price,
    ScheduleConfig,
    TimeoutSettings,
    load_config,
)
from provider_agent.agent.config.flags import FLAGS, variable_of
from provider_agent.agent.config.load import known_keys

ROOT = Path(__file__).parents[4]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text()
COORDINATOR = '[coordinator]\nurl = "wss://c.example/x"\n'
EXAMPLE = (ROOT / "agent.example.toml").read_text()

SAMPLES = {
    "operator.display_name": "rig",
    "operator.wallet": "1111",
    "operator.contact_email": "ops@example.com",
    "coordinator.url": "wss://c.example/x",
    "coordinator.fallback_urls": '["wss://d.example/x"]',
    "coordinator.dialect": "usepod",
    "coordinator.enrollment_code": "code",
    "coordinator.allow_insecure": "true",
    "coordinator.token_file": "/token",
    "coordinator.ca_file": "/ca.pem",
    "coordinator.client_cert_file": "/client.pem",
    "coordinator.client_key_file": "/client.key",
    "coordinator.proxy": "http://p:1",
    "coordinator.coalesce_ms": "0.5",
    "identity.key_path": "/key",
    "pricing.default_input_per_1m": "1",
    "pricing.default_output_per_1m": "2",
    "pricing.models": '{"m": {"input_per_1m": 1, "output_per_1m": 2}}',
    "limits.max_concurrent": "3",
    "limits.max_tokens_per_minute": "4",
    "limits.drain_timeout_s": "5.5",
    "limits.slow_consumer_s": "6",
    "discovery.interval_s": "30",
    "discovery.liveness_interval_s": "3",
    "schedule.time_zone": "Europe/Berlin",
    "schedule.windows": '[{"start": "18:00", "end": "08:00"}]',
    "observability.prometheus_addr": "127.0.0.1:1",
    "observability.log_level": "debug",
    "observability.log_format": "json",
    "observability.ledger_path": "/ledger.jsonl",
    "observability.allowed_hosts": '["agent.example"]',
    "backends": '[{"kind": "echo"}]',
}


def test_every_key_has_a_sample() -> None:
    assert set(SAMPLES) == set(known_keys())


@pytest.mark.parametrize("key", known_keys())
def test_key_is_documented_with_its_flag_and_variable(key: str) -> None:
    assert f"`{variable_of(key)}`" in DOCUMENT
    if key == "backends":
        return
    (row,) = re.findall(rf"^\| `{re.escape(key)}` \|.*$", DOCUMENT, re.MULTILINE)
    assert f"| `{variable_of(key)}` |" in row
    assert f"| `{FLAGS[key]}` |" in row if key in FLAGS else "| – |" in row


@pytest.mark.parametrize(
    "name",
    [
        f"backends.{name}"
        for name in BackendConfig.__struct_fields__
        if name not in ("timeouts", "schedule")
    ]
    + [f"backends.schedule.{name}" for name in ScheduleConfig.__struct_fields__]
    + [f"backends.timeouts.{name}" for name in TimeoutSettings.__struct_fields__],
)
def test_key_of_a_backend_is_documented(name: str) -> None:
    assert f"| `{name}` |" in DOCUMENT


def test_every_kind_is_documented_with_its_default_url() -> None:
    for kind in BUILT_IN_KINDS:
        assert f"`{kind}`" in DOCUMENT
    for url in {backend_class(kind).default_url for kind in BUILT_IN_KINDS} - {""}:
        assert f"`{url}`" in DOCUMENT


@pytest.mark.parametrize("key", known_keys())
def test_key_can_be_set_by_its_variable(key: str, tmp_path: Path) -> None:
    # All keys are set, because one default price without the other is an error.
    environ = {variable_of(name): sample for name, sample in SAMPLES.items()}
    path = tmp_path / "agent.toml"
    path.touch()
    loaded = load_config(path, environ, {}, BUILT_IN_KINDS)
    assert loaded.origins[key] == f"environment {variable_of(key)}"


@pytest.mark.parametrize("key", FLAGS)
def test_flag_belongs_to_a_known_key(key: str) -> None:
    assert key in known_keys()


def test_example_is_valid_and_contains_every_key() -> None:
    loaded = load_config(ROOT / "agent.example.toml", {"HOME": "/home/op"}, {}, BUILT_IN_KINDS)
    assert loaded.config.backends[0].kind == "vllm"
    names = {key.rpartition(".")[2] for key in known_keys()}
    names |= {*BackendConfig.__struct_fields__, *Price.__struct_fields__}
    for name in names:
        assert re.search(rf"\b{name}\b", EXAMPLE), name


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "docs" / "servers").glob("*.md")), ROOT / "README.md"],
    ids=lambda path: path.name,
)
def test_examples_of_the_pages_are_valid(path: Path, tmp_path: Path) -> None:
    for text in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        file = tmp_path / "agent.toml"
        file.write_text(text if "[coordinator]" in text else f"{COORDINATOR}{text}")
        if "[[backends]]" in text:
            assert load_config(file, {"HOME": "/home/op"}, {}, BUILT_IN_KINDS).warnings == ()


def test_example_is_valid_with_every_line_uncommented(tmp_path: Path) -> None:
    uncommented = re.sub(r"^# (?=\[\[|\"?[\w/.-]+\"? = )", "", EXAMPLE, flags=re.MULTILINE)
    assert "markup" in tomllib.loads(uncommented)["backends"][1]
    path = tmp_path / "agent.toml"
    path.write_text(uncommented)
    loaded = load_config(path, {"HOME": "/home/op"}, {}, BUILT_IN_KINDS)
    assert len(loaded.config.backends) == 3
    # The example shows the default values of these keys.
    limits, observability = loaded.config.limits, loaded.config.observability
    assert (limits.max_concurrent, limits.drain_timeout_s) == (8, 300.0)
    assert limits.slow_consumer_s == 60.0
    assert observability.prometheus_addr == "127.0.0.1:8490-8499"
