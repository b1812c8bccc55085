"""The `agent.toml` of the Rust agent, unchanged: every key of it, and what it means here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.backends.pricing import price_for
from provider_agent.agent.config import Config, Price, load_config
from provider_agent.agent.config.dialect import USEPOD, dialect_of
from tests.kit.scripted_backend import model
from tests.unit.agent.config.loading import load

COMPLETE = """
[operator]
display_name = "BlueBoxRig-01"
wallet = "11111111111111111111111111111111"
contact_email = "ops@example.com"

[coordinator]
url = "wss://api.usepod.ai/provider/connect"
enrollment_code = "POD-ENROLL-1234"

[identity]
key_path = "~/.usepod-agent/identity.key"

[[backends]]
kind = "vllm"
url = "http://localhost:8000"

[[backends]]
kind = "llamacpp"
url = "http://localhost:8080"
api_key_env = "LLAMACPP_API_KEY"
models = ["qwen3"]

[[backends]]
kind = "lmstudio"
url = "http://localhost:1234"

[[backends]]
kind = "ollama"
url = "http://localhost:11434"

[[backends]]
kind = "openrouter"
api_key_env = "OPENROUTER_API_KEY"
markup = 0.05
models = ["a/b"]

[[backends]]
kind = "venice"
api_key_env = "VENICE_API_KEY"

[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000

[pricing.models]
"meta-llama/Llama-3.3-70B-Instruct" = { input_per_1m = 300_000, output_per_1m = 450_000 }

[limits]
max_concurrent = 256
max_tokens_per_minute = 200_000

[observability]
prometheus_addr = "127.0.0.1:9090"
log_level = "warn"
"""
"""Every key of that agent, and every kind of backend."""

WRITTEN_BY_ITS_SETUP = """
# The comments of that file are left out.
[operator]
display_name  = ""
wallet        = ""

[coordinator]
url             = "wss://api.usepod.ai/provider/connect"

[identity]
key_path = "/home/op/.usepod-agent/identity.key"

[[backends]]
kind = "ollama"
url  = "http://localhost:11434"

[pricing]
default_input_per_1m  = 500_000
default_output_per_1m = 1_000_000

[pricing.models."qwen3:8b"]
input_per_1m  = 30000
output_per_1m = 60000

[limits]
max_concurrent = 4
"""

SMALLEST = """
[coordinator]
url = "wss://api.usepod.ai/provider/connect"
[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000
"""
"""Only the keys that it requires; it may have no backends."""

MEANINGS: list[tuple[str, Callable[[Config], object], object, object]] = [
    # key, how the agent reads it, its value in COMPLETE, and in SMALLEST
    ("operator.display_name", lambda c: c.operator.display_name, "BlueBoxRig-01", None),
    ("operator.wallet", lambda c: c.operator.wallet, "1" * 32, None),
    ("operator.contact_email", lambda c: c.operator.contact_email, "ops@example.com", None),
    (
        "coordinator.url",
        lambda c: c.coordinator.url,
        "wss://api.usepod.ai/provider/connect",
        "wss://api.usepod.ai/provider/connect",
    ),
    ("the dialect", lambda c: dialect_of(c.coordinator, c.coordinator.url), USEPOD, USEPOD),
    ("enrollment_code", lambda c: c.coordinator.enrollment_code, "POD-ENROLL-1234", None),
    (
        "key_path",
        lambda c: c.identity.key_path,
        Path("/home/op/.usepod-agent/identity.key"),
        Path("/home/op/.config/provider-agent/identity.key"),  # as there is no key file at all
    ),
    (
        "backends.kind",
        lambda c: [one.kind for one in c.backends],
        ["vllm", "llamacpp", "lmstudio", "ollama", "openrouter", "venice"],
        [],
    ),
    (
        "backends.url",
        lambda c: [one.url for one in c.backends if one.url and "localhost" in one.url],
        [f"http://localhost:{port}" for port in (8000, 8080, 1234, 11434)],
        [],
    ),
    (
        "backends.api_key_env",
        lambda c: [one.api_key_env for one in c.backends if one.api_key_env],
        ["LLAMACPP_API_KEY", "OPENROUTER_API_KEY", "VENICE_API_KEY"],
        [],
    ),
    ("backends.markup", lambda c: [one.markup for one in c.backends if one.markup], [0.05], []),
    (
        "backends.models",
        lambda c: [one.models for one in c.backends if one.models],
        [("qwen3",), ("a/b",)],
        [],
    ),
    ("default_input_per_1m", lambda c: c.pricing.default_input_per_1m, 500_000, 500_000),
    ("default_output_per_1m", lambda c: c.pricing.default_output_per_1m, 750_000, 750_000),
    (
        "pricing.models",
        lambda c: c.pricing.models,
        {"meta-llama/Llama-3.3-70B-Instruct": Price(300_000, 450_000)},
        {},
    ),
    ("limits.max_concurrent", lambda c: c.limits.max_concurrent, 256, 8),
    ("limits.max_tokens_per_minute", lambda c: c.limits.max_tokens_per_minute, 200_000, None),
    (
        "prometheus_addr",
        lambda c: c.observability.prometheus_addr,
        "127.0.0.1:9090",
        "127.0.0.1:8490-8499",
    ),
    ("log_level", lambda c: c.observability.log_level, "warning", "info"),
]


@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda meaning: meaning[0])
def test_every_key_has_its_meaning_or_default(
    meaning: tuple[str, Callable[[Config], object], object, object], tmp_path: Path
) -> None:
    _, read, complete, smallest = meaning

    assert read(load(tmp_path, COMPLETE).config) == complete
    assert read(load(tmp_path, SMALLEST).config) == smallest


@pytest.mark.parametrize("text", [COMPLETE, WRITTEN_BY_ITS_SETUP, SMALLEST])
def test_its_files_cause_no_warning(text: str, tmp_path: Path) -> None:
    assert load(tmp_path, text).warnings == ()


@pytest.mark.parametrize(
    ("kind", "url"),
    [("vllm", "http://h"), ("ollama", "http://h"), ("openai_passthrough", "http://h")],
)
def test_a_markup_without_an_effect_is_one_warning(kind: str, url: str, tmp_path: Path) -> None:
    # It was an error, but the Rust agent accepts a markup at every kind.
    table = f'[[backends]]\nkind = "{kind}"\nurl = "{url}"\napi_key_env = "K"\nmarkup = 0.05\n'

    (warning,) = load(tmp_path, SMALLEST + table).warnings

    assert warning == (
        f"backends[0].markup has no effect: {kind} reports no prices; remove it, and set the "
        "prices in [pricing.models]"
    )


def test_prices_are_whole_millionths_of_a_dollar(tmp_path: Path) -> None:
    config = load(tmp_path, COMPLETE).config
    llama, other = "meta-llama/Llama-3.3-70B-Instruct", "other"

    assert price_for(model(llama), config.pricing, None) == Price(300_000, 450_000)
    assert price_for(model(other), config.pricing, None) == Price(500_000, 750_000)


def test_a_markup_applies_to_the_price_of_the_upstream(tmp_path: Path) -> None:
    config = load(tmp_path, COMPLETE).config
    served = model("a/b", native=False, prices=(1_000_000, 2_000_000))

    price = price_for(served, config.pricing, config.backends[4].markup)

    assert price == Price(1_050_000, 2_100_000)


RUST_KEY = Path(".usepod-agent/identity.key")
OWN_KEY = Path(".config/provider-agent/identity.key")


@pytest.mark.parametrize(
    ("text", "existing", "expected"),
    [
        (SMALLEST, [RUST_KEY], RUST_KEY),
        (SMALLEST, [RUST_KEY, OWN_KEY], OWN_KEY),
        (SMALLEST, [], OWN_KEY),
        ('[coordinator]\nurl = "wss://c.example/x"\ndialect = "usepod"', [RUST_KEY], RUST_KEY),
        ('[coordinator]\nurl = "wss://c.example/x"\n', [RUST_KEY], OWN_KEY),
        (
            SMALLEST.replace("[pricing]", 'dialect = "provider-agent.v1"\n[pricing]'),
            [RUST_KEY],
            OWN_KEY,
        ),
    ],
)
def test_the_key_of_the_rust_agent_is_the_default_with_its_marketplace(
    text: str, existing: list[Path], expected: Path, tmp_path: Path
) -> None:
    # A file without [identity] would have made the agent create a key: a new provider.
    for path in existing:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()

    loaded = load(tmp_path, text, {"HOME": str(tmp_path)})
    placeholder = load(
        tmp_path, text, {"HOME": str(tmp_path)}, coordinator__url="wss://not-set.invalid"
    )

    assert loaded.config.identity.key_path == tmp_path / expected
    assert loaded.origins["identity.key_path"] == "default"
    # Commands that do not dial use the same key.
    assert placeholder.config.identity.key_path == tmp_path / expected


def test_its_file_is_found_if_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path)}
    for name in ("usepod-agent", "provider-agent"):
        file = tmp_path / name / "agent.toml"
        file.parent.mkdir()
        file.write_text(SMALLEST, "utf-8")
        assert load_config(None, environ, {}, BUILT_IN_KINDS).path == file
