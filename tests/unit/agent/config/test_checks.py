from pathlib import Path

import pytest

from tests.unit.agent.config.loading import MINIMAL, load, load_error

PAID = 'kind="openai_passthrough"\napi_key_env="K"'


@pytest.mark.parametrize(
    ("kind", "extra", "url"),
    [
        ("vllm", "", "http://127.0.0.1:8000"),
        ("llamacpp", "", "http://127.0.0.1:8080"),
        ("lmstudio", "", "http://127.0.0.1:1234"),
        ("ollama", "", "http://127.0.0.1:11434"),
        ("openrouter", 'api_key_env = "K"', "https://openrouter.ai/api"),
        ("openrouter", 'api_key_file = "k"', "https://openrouter.ai/api"),
        ("venice", 'api_key_env = "K"', "https://api.venice.ai/api"),
        ("echo", "", None),
        ("vllm", 'url = "http://gpu:8000/v1/"', "http://gpu:8000"),
        ("openai_compatible", 'url = "https://gpu/llm/v1"', "https://gpu/llm"),
    ],
)
def test_backend_url_is_the_default_or_normalized(
    tmp_path: Path, kind: str, extra: str, url: str | None
) -> None:
    text = f'{MINIMAL}[[backends]]\nkind = "{kind}"\n{extra}\n'
    assert load(tmp_path, text).config.backends[0].url == url


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ('kind="vlm"', 'backends[0].kind: unknown kind "vlm"; did you mean "vllm"?'),
        ('kind="openai_compatible"', "backends[0].url: missing"),
        (
            'kind="openrouter"',
            "backends[0].api_key_env: missing; openrouter needs a key: set the name",
        ),
        ('kind="vllm"\nurl="gpu:8000"', "begins with http:// or https://"),
        ('kind="vllm"\nurl="http://gpu:99999"', "backends[0].url: not an address"),
        ('kind="vllm"\nurl="http://u:p@gpu"', "must not contain a user or password"),
        ('kind="vllm"\nurl="http://gpu/?key=1"', 'must not contain "?"'),
        ('kind="vllm"\nurl="http://gpu/?"', 'must not contain "?"'),
        ('kind="vllm"\nformats=["openai"]', "vllm does not accept it"),
        ('kind="venice"\napi_key_env="sk-or-v1-abcdef"', "not the key itself"),
        ('kind="venice"\napi_key_file="sk-or-v1-abcdef"', "not the key itself"),
        ('kind="venice"\napi_key_file=""', "backends[0].api_key_file: expected the path of a"),
        ('kind="vllm"\napi_key_env="K"\napi_key_file="k"', "api_key_env is set as well"),
        ('kind="vllm"\noverflow=true', "overflow: vllm is not a passthrough; set it at the"),
        (
            'kind="openrouter"\napi_key_env="K"\nvenice_system_prompt=true',
            "backends[0].venice_system_prompt: openrouter does not accept it; remove it",
        ),
        ('kind="openai_passthrough"\napi_key_env="K"', "backends[0].url: missing"),
        ('kind="openai_passthrough"\nurl="http://h"', "api_key_env: missing"),
    ],
)
def test_invalid_backend_is_refused(tmp_path: Path, backend: str, message: str) -> None:
    error = load_error(tmp_path, f"{MINIMAL}[[backends]]\n{backend}\n")
    assert message in error
    assert "sk-or" not in error
    assert "u:p" not in error


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ('kind="vllm"', 'kind="vllm"\nurl="http://127.0.0.1:8000/v1"', "same kind and address"),
        ('kind="venice"\napi_key_env="K"', 'kind="venice"\napi_key_env="K"', "same kind and key"),
        ('kind="venice"\napi_key_file="k"', 'kind="venice"\napi_key_file="k"', "same kind and key"),
        ('kind="venice"\napi_key_file="k"', 'kind="venice"\napi_key_file="l"', None),
        ('kind="venice"\napi_key_file="K"', 'kind="venice"\napi_key_env="K"', None),
        ('kind="vllm"', 'kind="vllm"\nurl="http://127.0.0.1:8001"', None),
        ('kind="venice"\napi_key_env="K"', 'kind="venice"\napi_key_env="L"', None),
        ('kind="venice"\napi_key_env="K"', 'kind="openrouter"\napi_key_env="K"', None),
        (f'{PAID}\nurl="http://a"', f'{PAID}\nurl="http://a/v1"', "same kind and key"),
        (f'{PAID}\nurl="http://a"', f'{PAID}\nurl="http://b"', None),
    ],
)
def test_only_a_duplicate_backend_is_refused(
    tmp_path: Path, one: str, two: str, message: str | None
) -> None:
    text = f"{MINIMAL}[[backends]]\n{one}\n[[backends]]\n{two}\n"
    if message is None:
        assert len(load(tmp_path, text).config.backends) == 2
    else:
        assert f"backends[1] (the second [[backends]]): the {message} as backends[0]" in load_error(
            tmp_path, text
        )


@pytest.mark.parametrize(
    "url",
    [
        "wss://c.example/x",
        "wss://c.example.:443",
        f"wss://{'a' * 63}.example",
        "wss://a_b",
        "ws://127.0.0.1:1/x",
        "ws://[::1]:1",
        "ws://localhost",
        "ws://127.9.9.9",
    ],
)
def test_encrypted_or_loopback_coordinator_url_is_accepted(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, f'[coordinator]\nurl = "{url}"\n').config.coordinator.url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ws://c.example/x", "coordinator.url: ws:// would send prompts unencrypted"),
        ("ws://c.example/x", "set coordinator.allow_insecure (option --allow-insecure)"),
        ("ws://localhost.example/x", "unencrypted"),
        ("https://c.example/x", "begins with wss:// or ws://"),
        ("wss://", "contains a host"),
        ("wss://u@c.example", "must not contain a user or password"),
        ("wss://c.example/a b", "must not contain spaces"),
        ("wss://c.example/#a", 'must not contain "#"'),
        ("wss://[c.example", "not an address"),
        ("wss://c..example/x", "no host has such a name"),
        ("wss://.example", "no host has such a name"),
        ("wss://example..", "no host has such a name"),
        (f"wss://{'a' * 64}.example", "no host has such a name"),
        (f"wss://{'a.' * 127}a", "no host has such a name"),
        ("wss://c.example:0/x", "no server has port 0"),
    ],
)
def test_invalid_coordinator_url_is_refused(tmp_path: Path, url: str, message: str) -> None:
    assert message in load_error(tmp_path, f'[coordinator]\nurl = "{url}"\n')


def test_insecure_coordinator_url_can_be_allowed(tmp_path: Path) -> None:
    text = '[coordinator]\nurl = "ws://10.0.0.1/x"\nallow_insecure = true\n'
    assert load(tmp_path, text).config.coordinator.url == "ws://10.0.0.1/x"
    text = '[coordinator]\nurl = "ws://10.0.0.1/x"\n'
    assert load(tmp_path, text, coordinator__allow_insecure=True).config.coordinator.allow_insecure


@pytest.mark.parametrize("dialect", ["usepod", "provider-agent.v1"])
@pytest.mark.parametrize("key", ["url", "fallback_urls"])
def test_no_dialect_is_spoken_unencrypted_beyond_loopback(
    tmp_path: Path, dialect: str, key: str
) -> None:
    """The signature of the dialect usepod is not bound to a host, so that TLS alone protects it."""
    other = 'url = "wss://c.example/x"\n' if key != "url" else ""
    value = '"ws://10.0.0.1/x"' if key == "url" else '["ws://10.0.0.1/x"]'
    text = f'[coordinator]\n{other}{key} = {value}\ndialect = "{dialect}"\n'

    assert "ws:// would send prompts unencrypted" in load_error(tmp_path, text)


FALLBACK = "wss://b.example/x"


def test_fallback_urls_keep_their_order(tmp_path: Path) -> None:
    urls = [FALLBACK, "ws://127.0.0.1:1/x"]
    loaded = load(tmp_path, f"{MINIMAL}fallback_urls = {urls}\n")
    assert loaded.config.coordinator.fallback_urls == tuple(urls)
    assert load(tmp_path).config.coordinator.fallback_urls == ()
    variable = {"PROVIDER_AGENT_COORDINATOR_FALLBACK_URLS": f'["{FALLBACK}"]'}
    assert load(tmp_path, environ=variable).config.coordinator.fallback_urls == (FALLBACK,)


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["ws://b.example/x"], "fallback_urls[0]: ws:// would send prompts unencrypted"),
        ([FALLBACK, "https://b"], "fallback_urls[1]: expected an address that begins with wss://"),
        ([FALLBACK, "wss://u:secret@b"], "fallback_urls[1]: an address must not contain a user"),
        ([FALLBACK, FALLBACK], "coordinator.fallback_urls: an address occurs twice"),
        (["wss://c.example/provider/connect"], "or equals coordinator.url; remove one of them"),
        ([""], "fallback_urls[0]: expected"),
        ([3], "fallback_urls[0]: expected a string in quotes"),
        ([FALLBACK] * 17, "coordinator.fallback_urls: expected a list of length <= 16"),
        (3, "coordinator.fallback_urls: expected a list"),
    ],
)
def test_invalid_fallback_url_is_refused(tmp_path: Path, urls: object, message: str) -> None:
    error = load_error(tmp_path, f"{MINIMAL}fallback_urls = {urls}\n")
    assert message in error
    assert "secret" not in error


def test_fallback_urls_in_a_variable_must_be_json(tmp_path: Path) -> None:
    error = load_error(tmp_path, MINIMAL, {"PROVIDER_AGENT_COORDINATOR_FALLBACK_URLS": FALLBACK})
    assert 'expected JSON, such as ["wss://other.example/provider/connect"]' in error


def test_client_key_requires_a_certificate(tmp_path: Path) -> None:
    error = load_error(tmp_path, MINIMAL + 'client_key_file = "/client.key"\n')
    assert error.startswith(
        "agent.toml: coordinator.client_cert_file: missing; set it, or remove client_key_file"
    )
    text = MINIMAL + 'client_cert_file = "~/both.pem"\n'
    coordinator = load(tmp_path, text).config.coordinator
    assert coordinator.client_cert_file == Path("/home/op/both.pem")
    assert coordinator.client_key_file is None


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "86401"])
def test_invalid_slow_consumer_s_is_refused(tmp_path: Path, seconds: str) -> None:
    error = load_error(tmp_path, f"{MINIMAL}[limits]\nslow_consumer_s = {seconds}\n")
    assert "limits.slow_consumer_s: expected a number" in error


def test_coordinator_paths_are_expanded(tmp_path: Path) -> None:
    text = MINIMAL + 'token_file = "~/token"\nca_file = "/ca.pem"\nproxy = "http://p:3128"\n'
    coordinator = load(tmp_path, text).config.coordinator
    assert coordinator.token_file == Path("/home/op/token")
    assert coordinator.ca_file == Path("/ca.pem")
    assert coordinator.proxy == "http://p:3128"


def test_socks_proxy_is_refused(tmp_path: Path) -> None:
    error = load_error(tmp_path, MINIMAL + 'proxy = "socks5://u:pass@p:1"\n')
    assert "coordinator.proxy: expected an address that begins with http://" in error
    assert "pass@" not in error


@pytest.mark.parametrize("address", ["", "off", " "])
def test_status_server_can_be_turned_off(tmp_path: Path, address: str) -> None:
    text = f'{MINIMAL}[observability]\nprometheus_addr = "{address}"\n'
    assert load(tmp_path, text).config.observability.prometheus_addr == ""


@pytest.mark.parametrize(
    "address", ["9090", "127.0.0.1", ":9090", "h:99999", "::1:9090", "[::1:1", "h:٣", "h:000080"]
)
def test_invalid_listen_address_is_refused(tmp_path: Path, address: str) -> None:
    text = f'{MINIMAL}[observability]\nprometheus_addr = "{address}"\n'
    assert "observability.prometheus_addr: " in load_error(tmp_path, text)


def test_default_prices_require_each_other(tmp_path: Path) -> None:
    error = load_error(tmp_path, MINIMAL + "[pricing]\ndefault_input_per_1m = 1\n")
    assert (
        "pricing.default_output_per_1m: missing, while default_input_per_1m is set; set both"
        in error
    )
    error = load_error(tmp_path, MINIMAL + "[pricing]\ndefault_output_per_1m = 1\n")
    assert "pricing.default_input_per_1m: missing" in error


def test_allowed_hosts_are_names_in_lower_case(tmp_path: Path) -> None:
    section = '[observability]\nallowed_hosts = ["Agent.Example."]\n'
    assert load(tmp_path, f"{MINIMAL}{section}").config.observability.allowed_hosts == (
        "agent.example",
    )


@pytest.mark.parametrize("host", ["https://agent.example", "agent.example:8490", "*.example", ""])
def test_allowed_host_that_is_no_name_is_refused(host: str, tmp_path: Path) -> None:
    text = f'{MINIMAL}[observability]\nallowed_hosts = ["a", "{host}"]\n'
    assert "observability.allowed_hosts[1]: " in load_error(tmp_path, text)
