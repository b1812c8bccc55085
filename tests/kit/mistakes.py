"""What operators do wrong, and what they read: one table, for `check` and for `run`.

A message says what is wrong, and where; a remedy says what to do about it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

COORDINATOR = '[coordinator]\nurl = "ws://127.0.0.1:1/provider/connect"\n'
ECHO = '[[backends]]\nkind = "echo"\n'
VENICE = '[[backends]]\nkind = "venice"\napi_key_env = "SERVER_KEY"\nmodels = ["*"]\n'
DEAD_PROXY = "http://user:SECRET@127.0.0.1:1"
HALF_A_DOLLAR = '0.5 dollars per million tokens is 500_000 or "0.50 USD"'
TWO_FORMS = 'half a dollar per million tokens is 500_000 or "0.50 USD"'
PRICE = "expected a whole number of millionths of a US dollar, or dollars with their unit, got "


class Mistake(NamedTuple):
    """One mistake.

    Attributes:
        what: what the operator did.
        config: the text of `agent.toml`. A name in `<…>` is the port of a server: see the test.
        message: a part of the text that says what is wrong.
        remedy: a part of the text that says what to do; "" if the message says it.
        env: environment variables.
    """

    what: str
    config: str | bytes
    message: str
    remedy: str = ""
    env: Mapping[str, str] = MappingProxyType({})


def backend(text: str) -> str:
    """Return a configuration with one backend."""
    return f"{COORDINATOR}[[backends]]\n{text}\n"


def price(text: str) -> str:
    """Return a configuration with a default price for input, and one for output."""
    return f"{COORDINATOR}{ECHO}[pricing]\ndefault_input_per_1m = {text}\ndefault_output_per_1m = 1"


def url(text: str) -> str:
    """Return a configuration with this address of the coordinator."""
    return f'[coordinator]\nurl = "{text}"\n'


def model_price(text: str) -> str:
    """Return a configuration with an entry in `[pricing.models]`."""
    return f"{COORDINATOR}{ECHO}[pricing.models]\n{text}\n"


def setting(section: str, text: str) -> str:
    """Return a configuration with one more setting."""
    return f"{COORDINATOR}{ECHO}[{section}]\n{text}\n"


IN_THE_SETTINGS = (
    # --- the file ---
    Mistake(
        "no coordinator",
        "[operator]\n",
        "coordinator.url: missing",
        "PROVIDER_AGENT_COORDINATOR_URL",
    ),
    Mistake("missing bracket", "[coordinator\n", "line 1, column 13: not valid TOML"),
    Mistake("no quotes", "[coordinator]\nurl = wss://c/\n", "line 2, column 7: not valid TOML"),
    Mistake("UTF-16", "[coordinator]".encode("utf-16"), "line 1: not UTF-8", "save the file as"),
    Mistake("Latin-1", b"[operator]\n# \xfc\n", "line 2: not UTF-8", "save the file as UTF-8"),
    Mistake("a key twice", "[limits]\nmax_concurrent = 1\nmax_concurrent = 2", "not valid TOML"),
    Mistake("a section's typo", '[coordinater]\nurl="x"', "unknown section", '"coordinator"?'),
    Mistake("a key's typo", "[limits]\nmax_conccurent=1", "unknown key", '"max_concurrent"?'),
    Mistake("[backend]", "[backend]\nkind='vllm'", "backend: unknown section", '"backends"?'),
    Mistake(
        "[backends]",
        f'{COORDINATOR}[backends]\nkind = "vllm"',
        "backends: expected a list of tables, got one table",
        "write [[backends]]",
    ),
    Mistake(
        "[backends.vllm]",
        f"{COORDINATOR}[backends.vllm]\nurl = 'http://localhost:8000'",
        "backends: expected a list of tables, got one table",
        "write [[backends]]",
    ),
    Mistake(
        "one backend in the variable",
        COORDINATOR,
        "PROVIDER_AGENT_BACKENDS: backends: expected a list of tables, got one table",
        "put it into a list",
        {"PROVIDER_AGENT_BACKENDS": '{"kind": "vllm"}'},
    ),
    Mistake(
        "no JSON in the variable",
        COORDINATOR,
        "PROVIDER_AGENT_BACKENDS: backends: expected JSON",
        '[{"kind": "ollama"}]',
        {"PROVIDER_AGENT_BACKENDS": "ollama"},
    ),
    Mistake(
        "[[coordinator]]",
        "[[coordinator]]\nurl = 'wss://c.example/'",
        "coordinator: expected a table, got a list",
        "write [coordinator]",
    ),
    # --- the coordinator ---
    Mistake("http://", url("https://c.example/"), "coordinator.url: expected an address", "wss://"),
    Mistake("no scheme", url("c.example"), "coordinator.url: expected an address", "wss://"),
    Mistake("ws:// to others", url("ws://c.example/"), "prompts unencrypted", "use wss://"),
    Mistake("a password", url("wss://a:SECRET@c.example/"), "a user or password", "remove it"),
    Mistake("a space", url("wss://c.exa mple/"), "must not contain spaces", "remove them"),
    Mistake("port 0", url("wss://c.example:0/"), "no server has port 0", "write the server's port"),
    Mistake("two dots", url("wss://c..example/"), "no host has such a name", "correct the host"),
    Mistake(
        "the same fallback",
        f"{COORDINATOR}fallback_urls = ['ws://127.0.0.1:1/provider/connect']",
        "an address occurs twice",
        "remove one of them",
    ),
    Mistake(
        "a key without its certificate",
        f"{COORDINATOR}client_key_file = 'x.key'",
        "coordinator.client_cert_file: missing",
        "set it, or remove client_key_file",
    ),
    # --- backends ---
    Mistake("no kind", backend("url='http://127.0.0.1:1'"), "backends[0]: kind is missing"),
    Mistake("kind openai", backend("kind='openai'"), 'unknown kind "openai"', "openai_compatible"),
    Mistake("kind llama.cpp", backend("kind='llama.cpp'"), "unknown kind", '"llamacpp"?'),
    Mistake("kind LM Studio", backend("kind='LM Studio'"), "unknown kind", '"lmstudio"?'),
    Mistake("kind VLLM", backend("kind='VLLM'"), "unknown kind", '"vllm"?'),
    Mistake("kind sglang", backend("kind='sglang'"), "unknown kind", '"openai_compatible"?'),
    Mistake("kind triton", backend("kind='triton'"), "unknown kind", "known: echo, llamacpp"),
    Mistake("no url", backend("kind='openai_compatible'"), "url: missing", "set it, such as"),
    Mistake("a url's scheme", backend("kind='vllm'\nurl='localhost:8000'"), "http:// or https://"),
    Mistake("no key", backend("kind='openrouter'"), "api_key_env: missing", "openrouter needs a"),
    Mistake(
        "the key itself",
        backend("kind='openrouter'\napi_key_env='sk-or-SECRET'"),
        "expected the name of an environment variable, not the key itself",
        "put the key into a variable",
    ),
    Mistake(
        "two keys",
        backend("kind='openrouter'\napi_key_env='A'\napi_key_file='b'"),
        "api_key_env is set as well",
        "remove one of them",
    ),
    Mistake(
        "a backend twice",
        backend("kind='vllm'") + "[[backends]]\nkind = 'vllm'\nurl = 'http://127.0.0.1:8000/v1'",
        "the same kind and address as backends[0]",
        "remove one of them",
    ),
    Mistake(
        "the second backend",
        backend("kind='vllm'") + "[[backends]]\nkind = 'vlm'",
        'backends[1].kind (the second [[backends]]): unknown kind "vlm"',
        'did you mean "vllm"?',
    ),
    Mistake(
        "no list of models",
        backend("kind='vllm'\nmodels='a'"),
        "backends[0].models: expected a list, got a string in quotes",
    ),
    # --- prices ---
    Mistake("price 0.5", price("0.5"), f"default_input_per_1m: {PRICE}a number", HALF_A_DOLLAR),
    Mistake("price .5 in text", price('".5"'), f"{PRICE}other text", ".5 dollars per million tok"),
    Mistake("no unit", price('"0.50"'), f"{PRICE}other text", "0.50 dollars per million tokens is"),
    Mistake("another currency", price('"0.50 EUR"'), f"{PRICE}other text", TWO_FORMS),
    Mistake("a dollar sign", price('"$0.50"'), f"{PRICE}other text", TWO_FORMS),
    Mistake("a comma", price('"0,50 USD"'), f"{PRICE}other text", TWO_FORMS),
    Mistake("seven digits", price('"0.0000001 USD"'), f"{PRICE}other text", TWO_FORMS),
    Mistake("a negative price", price("-1"), "expected a whole number >= 0", TWO_FORMS),
    Mistake(
        "price 0.5 in the variable",
        COORDINATOR,
        f"_DEFAULT_INPUT_PER_1M: pricing.default_input_per_1m: {PRICE}other text",
        "0.5 dollars per million tokens is 500_000 or 0.50 USD",
        {"PROVIDER_AGENT_PRICING_DEFAULT_INPUT_PER_1M": "0.5"},
    ),
    Mistake(
        "price 0.5 of a model",
        model_price('"m" = { input_per_1m = 0.5, output_per_1m = 1 }'),
        f'pricing.models."m".input_per_1m: {PRICE}a number',
        HALF_A_DOLLAR,
    ),
    Mistake(
        "one price of a model",
        model_price('"m" = { input_per_1m = 1 }'),
        'pricing.models."m": output_per_1m is missing',
    ),
    Mistake(
        "one default price",
        setting("pricing", 'default_input_per_1m = "0.50 USD"'),
        "pricing.default_output_per_1m: missing, while default_input_per_1m is set",
        "set both or neither",
    ),
    Mistake(
        "a model's name without quotes",
        model_price("qwen2.5 = { input_per_1m = 1, output_per_1m = 2 }"),
        "a name with dots is not in quotes",
        'put the model name in quotes: "qwen2.5"',
    ),
    # --- other settings ---
    Mistake("no job at once", setting("limits", "max_concurrent = 0"), "a whole number >= 1"),
    Mistake("a number as text", setting("limits", "max_concurrent = '8'"), "got a string in quot"),
    Mistake("a level", setting("observability", "log_level = 'loud'"), "one of: debug, info"),
    Mistake(
        "a port without host",
        setting("observability", "prometheus_addr = '8490'"),
        "observability.prometheus_addr: expected host:port or host:first-last",
        'or "" to turn it off',
    ),
    Mistake(
        "ports in the wrong order",
        setting("observability", "prometheus_addr = '127.0.0.1:8499-8490'"),
        "observability.prometheus_addr: expected host:port or host:first-last",
    ),
    Mistake("a key path", setting("identity", "key_path = ''"), "expected the path of a file"),
)
"""Mistakes that the settings alone show. `check` and `run` exit with 2."""

KEY = '[identity]\nkey_path = "identity.key"\n'

IN_THE_WORLD = (
    # --- the coordinator ---
    Mistake(
        "dead HTTPS_PROXY",
        url("wss://c.example/provider/connect") + KEY + ECHO,
        "the proxy 127.0.0.1:1 cannot be reached (connection refused)",
        "check [coordinator] proxy or HTTPS_PROXY",
        {"HTTPS_PROXY": DEAD_PROXY},
    ),
    Mistake(
        "dead proxy in the file",
        f'{url("wss://c.example/provider/connect")}proxy = "{DEAD_PROXY}"\n{KEY}{ECHO}',
        "the proxy 127.0.0.1:1 cannot be reached (connection refused)",
        "check [coordinator] proxy or HTTPS_PROXY",
    ),
    Mistake(
        "unknown host of the coordinator",
        url("wss://c.invalid/provider/connect") + KEY + ECHO,
        "no such host: c.invalid (",
        "check its spelling in [coordinator] url, and the DNS of this machine",
    ),
    Mistake(
        "unknown host of the proxy",
        f'{url("wss://c.example/")}proxy = "http://p.invalid:3128"\n{KEY}{ECHO}',
        "the proxy p.invalid:3128 cannot be reached (",
        "check [coordinator] proxy or HTTPS_PROXY",
    ),
    Mistake(
        "no coordinator on the port",
        url("ws://127.0.0.1:<closed>/provider/connect") + KEY + ECHO,
        "connection refused; is the coordinator running there?",
    ),
    Mistake(
        "wss:// to a coordinator without TLS",
        url("wss://127.0.0.1:<other>/provider/connect") + KEY + ECHO,
        "should the url begin with ws://?",
    ),
    Mistake(
        "another web server",
        url("ws://127.0.0.1:<other>/") + KEY + ECHO,
        "HTTP status 404",
        "path of [coordinator] url right",
    ),
    Mistake(
        "no token",
        url("ws://127.0.0.1:<key>/provider/connect") + KEY + ECHO,
        "HTTP status 401",
        "token_file",
    ),
    Mistake(
        "missing token file",
        f"{COORDINATOR}token_file = 'token'\n{KEY}{ECHO}",
        "[coordinator] token_file token: it cannot be read: No such file or directory",
    ),
    Mistake(
        "a mistyped key path",
        f'{COORDINATOR}[identity]\nkey_path = "identiy.key"\n{ECHO}',
        "the file does not exist",
        "`provider-agent identity` creates it",
    ),
    # --- backends ---
    Mistake(
        "https:// at a server without TLS",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "https://127.0.0.1:<other>"\n',
        "the server speaks plain HTTP, not TLS",
        "begin the url with http://",
    ),
    Mistake(
        "https:// at a server that waits for a line",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "llamacpp"\nurl = "https://127.0.0.1:<patient>"\n',
        "the server speaks plain HTTP, not TLS",
        "begin the url with http://",
    ),
    Mistake(
        "http:// at a server with TLS",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<alert>"\n',
        "the server speaks TLS, not plain HTTP",
        "begin the url with https://",
    ),
    Mistake(
        "http:// at a port of nginx for TLS",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<nginx>"\n',
        "the server speaks TLS, not plain HTTP",
        "begin the url with https://",
    ),
    Mistake(
        "key needed, none set",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<key>"\n',
        "the server requires a key (status 401), and none is set",
        "set api_key_env",
    ),
    Mistake(
        "wrong key",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<key>"\n'
        'api_key_env = "SERVER_KEY"\n',
        "the server refused the key",
        "check api_key_env or api_key_file",
        {"SERVER_KEY": "SECRET"},
    ),
    Mistake(
        "variable of the key not set",
        f"{COORDINATOR}{KEY}{VENICE}",
        "the environment variable SERVER_KEY (api_key_env) is not set, or is empty",
    ),
    Mistake(
        "missing key file",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\napi_key_file = "server.key"\n',
        "the file server.key (api_key_file) cannot be read: No such file or directory",
    ),
    Mistake(
        "dead HTTPS_PROXY, service",
        f"{COORDINATOR}{KEY}{VENICE}",
        "the proxy 127.0.0.1:1 cannot be reached (Connection refused)",
        "check HTTPS_PROXY",
        {"HTTPS_PROXY": DEAD_PROXY, "SERVER_KEY": "x"},
    ),
    Mistake(
        "unknown host of a backend",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://gpu.invalid:8000"\n',
        "no such host: gpu.invalid",
        "check its spelling in the backend's url",
    ),
    Mistake(
        "server not started",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<closed>"\n',
        "connection refused; is the server running, and is the address right?",
    ),
    Mistake(
        "another server on the port",
        f'{COORDINATOR}{KEY}[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:<other>"\n',
        "the server does not know this address (status 404); are kind and url right?",
    ),
)
"""Mistakes that only a connection shows. `check` exits with 1; `run` logs them, and tries again."""
