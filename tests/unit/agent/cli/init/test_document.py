from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.backends.local_servers import PRODUCTS, FoundServer
from provider_agent.agent.cli.init.document import Answers, OfferedServer, render
from provider_agent.agent.cli.init.prices import Prices
from provider_agent.agent.config import (
    BackendConfig,
    LimitsConfig,
    LoadedConfig,
    ObservabilityConfig,
    Price,
    load_config,
)

URL = "wss://coordinator.example/provider/connect"
VLLM = FoundServer("vllm", "http://127.0.0.1:8000")
CODE = 'c"o\\de'
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def load(text: str, folder: Path) -> LoadedConfig:
    """Load the text with the agent's own loader."""
    path = folder / "agent.toml"
    path.write_text(text, "utf-8")
    return load_config(path, {"HOME": "/home/op"}, {}, BUILT_IN_KINDS)


def test_every_answer_is_in_the_loaded_file(tmp_path: Path) -> None:
    prices = Prices(Price(500_000, 1_500_000), {"acme:8b": Price(0, 1)})
    locked = OfferedServer(FoundServer("llamacpp", "http://127.0.0.1:8080"), (), "LLAMACPP_API_KEY")
    answers = Answers(
        "ws://10.0.0.1/", (OfferedServer(VLLM, ("a",)), locked), prices, 'c"o\\de', True, "/k/i.key"
    )

    loaded = load(render(answers), tmp_path)

    config = loaded.config
    assert config.coordinator.url == "ws://10.0.0.1/"
    assert config.coordinator.allow_insecure
    assert config.coordinator.enrollment_code == CODE
    assert config.identity.key_path == Path("/k/i.key")
    assert config.backends == (
        BackendConfig(kind="vllm", url="http://127.0.0.1:8000"),
        BackendConfig(kind="llamacpp", url="http://127.0.0.1:8080", api_key_env="LLAMACPP_API_KEY"),
    )
    assert config.pricing.default_input_per_1m == 500_000
    assert config.pricing.default_output_per_1m == 1_500_000
    assert config.pricing.models == {"acme:8b": Price(0, 1)}


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_has_a_kind_that_the_loader_knows(product: str, tmp_path: Path) -> None:
    server = FoundServer(product, "http://127.0.0.1:7000")

    loaded = load(render(Answers(URL, (OfferedServer(server),))), tmp_path)

    assert [(one.kind, one.url) for one in loaded.config.backends] == [(server.kind, server.url)]


def test_file_without_servers_and_prices_is_valid_and_has_examples(tmp_path: Path) -> None:
    text = render(Answers(URL))

    loaded = load(text, tmp_path)

    assert loaded.config.backends == ()
    assert loaded.config.pricing.default_input_per_1m is None
    assert loaded.config.identity.key_path == Path("/home/op/.config/provider-agent/identity.key")
    assert '# kind = "openrouter"' in text


def test_every_commented_setting_is_valid_when_it_is_uncommented(tmp_path: Path) -> None:
    lines = render(Answers(URL)).splitlines()
    settings = (
        "# [[",
        "# kind",
        "# url",
        "# api_key_env",
        "# models",
        "# max_",
        "# drain",
        "# key_",
    )
    starts = (*settings, "# default_", "# enrollment_code", "# prometheus", "# log_level")
    text = "\n".join(line[2:] if line.startswith(starts) else line for line in lines)

    loaded = load(text, tmp_path)

    assert [one.kind for one in loaded.config.backends] == ["vllm", "openrouter"]
    assert loaded.config.limits.drain_timeout_s == LimitsConfig().drain_timeout_s
    assert loaded.config.observability == ObservabilityConfig()
    assert loaded.config.pricing.default_output_per_1m == 500_000


@given(code=ANY_TEXT, model=ANY_TEXT)
def test_no_text_of_a_server_or_operator_breaks_the_file(
    code: str, model: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The id of a model could otherwise end its comment and add settings to the file."""
    prices = Prices(by_model={model: Price(1_000_000, 2_000_000)})
    offered = OfferedServer(VLLM, (model, "a\n[limits]\nmax_concurrent = 1\n#"))

    answers = Answers(URL, (offered,), prices, code)
    loaded = load(render(answers), tmp_path_factory.getbasetemp())

    assert loaded.config.coordinator.enrollment_code == code
    assert loaded.config.pricing.models == prices.by_model
    assert loaded.config.limits.max_concurrent == 8


def test_enrollment_code_and_query_can_be_hidden() -> None:
    answers = Answers(f"{URL}?SECRET-QUERY", enrollment_code="SECRET-CODE")

    assert f'url = "{URL}?SECRET-QUERY"\n' in render(answers)
    shown = render(answers, show_code=False)
    assert f'url = "{URL}?[set]"  # not shown completely\n' in shown
    assert "SECRET" not in shown
    assert "SECRET" not in repr(answers)


def test_comment_of_a_server_names_up_to_five_models() -> None:
    assert OfferedServer(VLLM, tuple("abcde")).summary == "a, b, c, d, e"
    assert OfferedServer(VLLM, tuple("abcdefg")).summary == "a, b, c, d, e and 2 more"
    assert OfferedServer(VLLM).summary == "it has no model to offer"
