import math
from pathlib import Path

import pytest

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.config import (
    ConfigError,
    Price,
    TimeoutSettings,
    load_config,
)
from provider_agent.agent.config.errors import MAX_SHOWN, SeveralConfigErrors
from provider_agent.agent.config.flags import variable_of
from provider_agent.protocol.formats import WireFormat
from tests.unit.agent.config.loading import MINIMAL, load, load_error


def test_only_the_coordinator_url_is_required(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    config = loaded.config
    assert config.backends == ()
    assert config.limits.max_concurrent == 8
    assert config.limits.drain_timeout_s == 300
    assert config.observability.prometheus_addr == "127.0.0.1:8490-8499"
    assert config.identity.key_path == Path("/home/op/.config/provider-agent/identity.key")
    assert loaded.origins["identity.key_path"] == "default"


def test_default_key_path_is_in_the_config_home(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"XDG_CONFIG_HOME": "/xdg"}).config
    assert config.identity.key_path == Path("/xdg/provider-agent/identity.key")


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    text = MINIMAL + "[limits]\nmax_concurrent = 2\n"
    variable = {"PROVIDER_AGENT_LIMITS_MAX_CONCURRENT": "3"}
    loaded = [
        load(tmp_path),
        load(tmp_path, text),
        load(tmp_path, text, variable),
        load(tmp_path, text, variable, limits__max_concurrent=4),
        load(tmp_path, text, variable, limits__max_concurrent=None),
    ]
    assert [one.config.limits.max_concurrent for one in loaded] == [8, 2, 3, 4, 3]
    origins = [one.origins["limits.max_concurrent"] for one in loaded]
    assert origins == [
        "default",
        str(tmp_path / "agent.toml"),
        "environment PROVIDER_AGENT_LIMITS_MAX_CONCURRENT",
        "flag --max-concurrent",
        "environment PROVIDER_AGENT_LIMITS_MAX_CONCURRENT",
    ]


def test_flag_value_that_is_a_path_or_number_needs_no_conversion(tmp_path: Path) -> None:
    flags = {"identity__key_path": Path("~/key"), "limits__drain_timeout_s": 1.5}
    config = load(tmp_path, MINIMAL, {}, **flags).config
    assert config.identity.key_path == Path("/home/op/key")
    assert config.limits.drain_timeout_s == 1.5


def test_environment_without_a_file_is_sufficient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        "HOME": str(tmp_path),
        "PROVIDER_AGENT_COORDINATOR_URL": "wss://c.example/x",
        "PROVIDER_AGENT_COORDINATOR_ALLOW_INSECURE": "true",
        "PROVIDER_AGENT_BACKENDS": '[{"kind": "ollama", "timeouts": {"connect_s": 2}}]',
        "PROVIDER_AGENT_PRICING_MODELS": '{"m": {"input_per_1m": 1, "output_per_1m": 2}}',
    }
    loaded = load_config(None, environ, {}, BUILT_IN_KINDS)
    assert loaded.path is None
    assert loaded.config.coordinator.allow_insecure
    assert loaded.config.backends[0].url == "http://127.0.0.1:11434"
    assert loaded.config.backends[0].timeouts == TimeoutSettings(connect_s=2)
    assert loaded.config.pricing.models == {"m": Price(1, 2)}
    assert loaded.origins["backends"] == "environment PROVIDER_AGENT_BACKENDS"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    environ = {"PROVIDER_AGENT_LIMITS_MAX_CONCURRENT": "", "PROVIDER_AGENT_COORDINATOR_URL": ""}
    assert load(tmp_path, environ=environ).config.limits.max_concurrent == 8


def test_misspelled_variable_is_a_warning_and_an_unrelated_one_is_not(tmp_path: Path) -> None:
    environ = {
        "PROVIDER_AGENT_LIMITS_MAX_CONCURENT": "3",
        # Set by Kubernetes for a service named provider-agent.
        "PROVIDER_AGENT_SERVICE_HOST": "10.0.0.1",
    }
    (warning,) = load(tmp_path, environ=environ).warnings
    assert "PROVIDER_AGENT_LIMITS_MAX_CONCURENT" in warning
    assert "did you mean PROVIDER_AGENT_LIMITS_MAX_CONCURRENT?" in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[coordinater]\nurl = "x"', 'coordinater: unknown section; did you mean "coordinator"?'),
        ("zzz = 1", "zzz: unknown section; known: "),
        (
            "[limits]\nmax_conccurent = 1",
            'limits.max_conccurent: unknown key; did you mean "max_concurrent"?',
        ),
        ("limits = 3", "limits: expected a table, got a whole number"),
        ("backends = 3", "backends: expected a list, got a whole number"),
        ("backends = [3]", "backends[0]: expected a table, got a whole number"),
        (
            '[[backends]]\nkind="vllm"\nurll="x"',
            'backends[0].urll: unknown key; did you mean "url"?',
        ),
        (
            '[[backends]]\nkind="vllm"\ntimeouts={silence=1}',
            'backends[0].timeouts.silence: unknown key; did you mean "silence_s"?',
        ),
        (
            '[pricing.models]\n"a" = {input=1, output_per_1m=2}',
            'pricing.models."a".input: unknown key; known: input_per_1m, output_per_1m',
        ),
        ("[[backends]]\nurl='http://x'", "backends[0]: kind is missing"),
        (
            "[pricing.models]\n'a' = {input_per_1m=1}",
            'pricing.models."a": output_per_1m is missing',
        ),
        (
            "[pricing.models]\nqwen2.5 = {input_per_1m=1, output_per_1m=2}",
            (
                'pricing.models."qwen2": a table in a table; a name with dots is not in quotes; '
                'put the model name in quotes: "qwen2.5"'
            ),
        ),
        (
            "[pricing.models]\na1.2.3 = {input_per_1m=1, output_per_1m=2}",
            'put the model name in quotes: "a1.2.3"',
        ),
        (
            '[[backends]]\nkind="echo"\nalias = {qwen2.5 = "m"}',
            (
                'backends[0].alias."qwen2": a table in a table; a name with dots is not in quotes; '
                'put the model name in quotes: "qwen2.5"'
            ),
        ),
        (
            '[[backends]]\nkind="echo"\nalias = {m = 5}',
            'backends[0].alias."m": expected a string in quotes, got a whole number',
        ),
        (
            '[limits]\nmax_concurrent = "8"',
            "limits.max_concurrent: expected a whole number, got a string in quotes",
        ),
        (
            "[limits]\nmax_concurrent = 0",
            "limits.max_concurrent: expected a whole number >= 1",
        ),
        ("[limits]\nmax_concurrent = 4097", "expected a whole number <= 4096"),
        ("[limits]\ndrain_timeout_s = nan", "limits.drain_timeout_s: expected a number >= 0"),
        (
            "[[backends]]\nkind='echo'\ntimeouts={connect_s=-1}",
            "backends[0].timeouts.connect_s: expected a number > 0",
        ),
        (
            "[observability]\nlog_level = 'loud'",
            "observability.log_level: expected one of: debug, info, warning, error",
        ),
        ("[identity]\nkey_path = 3", "identity.key_path: expected the path of a file"),
        ("[identity]\nkey_path = ''", "identity.key_path: expected the path of a file"),
        (
            "[[backends]]\nkind='openai_compatible'\nurl='http://x'\nformats=['gemini']",
            "backends[0].formats[0]: expected one of: openai, anthropic",
        ),
        (
            "[[backends]]\nkind='echo'\nrequest_policy='loose'",
            "backends[0].request_policy: expected one of: refuse, strip, pass",
        ),
    ],
)
def test_error_about_an_invalid_setting_is_one_line_with_file_key_and_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    environ = {"PROVIDER_AGENT_COORDINATOR_URL": "wss://c.example/x"}
    error = load_error(tmp_path, f"{text}\n", environ)
    assert error.startswith("agent.toml: ")
    assert message in error
    assert "\n" not in error


def test_error_starts_with_the_variable_or_flag_of_the_value(tmp_path: Path) -> None:
    variable = {"PROVIDER_AGENT_LIMITS_MAX_CONCURRENT": "many"}
    assert load_error(tmp_path, MINIMAL, variable).startswith(
        "environment PROVIDER_AGENT_LIMITS_MAX_CONCURRENT: limits.max_concurrent: expected a whole"
    )
    assert load_error(tmp_path, MINIMAL, limits__max_concurrent=0).startswith(
        "flag --max-concurrent: limits.max_concurrent: expected"
    )
    for text in ("ollama", '["\udcff"]'):  # Python decodes bytes that are not UTF-8 to surrogates.
        backends = {"PROVIDER_AGENT_BACKENDS": text}
        assert "expected JSON" in load_error(tmp_path, MINIMAL, backends)
    prices = {"PROVIDER_AGENT_PRICING_MODELS": '{"m": [1]}'}
    assert 'pricing.models."m": expected a table' in load_error(tmp_path, MINIMAL, prices)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("limits.max_concurrent", "abc", "expected a whole number, got text"),
        ("limits.drain_timeout_s", "soon", "expected a number, got text"),
        ("coordinator.allow_insecure", "maybe", "expected true or false, got text"),
        (
            "pricing.default_input_per_1m",
            "free",
            (
                "expected a whole number of millionths of a US dollar, or dollars with their unit, "
                "got other text; half a dollar per million tokens is 500_000 or 0.50 USD"
            ),
        ),
    ],
)
def test_error_about_a_variable_shows_neither_its_value_nor_advice_on_toml_quotes(
    tmp_path: Path, key: str, value: str, reason: str
) -> None:
    # The value may be a secret in the wrong variable.
    variable = variable_of(key)

    error = load_error(tmp_path, MINIMAL, {variable: value})

    assert error == f"environment {variable}: {key}: {reason}"


def test_error_about_a_flag_gives_no_advice_on_toml_quotes(tmp_path: Path) -> None:
    error = load_error(tmp_path, MINIMAL, identity__key_path="")
    assert error == "flag --key-path: identity.key_path: expected the path of a file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[observability]\nallowed_hosts = "agent.example"\n',
            'expected a list, got a string in quotes; write ["…"], in square brackets',
        ),
        (
            '[schedule]\ntime_zone = "UTC"\nwindows = [{ start = 08:00:00, end = "09:00" }]\n',
            "windows[0].start: expected a string in quotes, got a time",
        ),
    ],
)
def test_error_about_a_wrong_type_says_how_to_write_it(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert load_error(tmp_path, MINIMAL + text).endswith(expected)


def test_error_about_a_missing_file_names_init(tmp_path: Path) -> None:
    """A first `run` without a file only listed settings."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"HOME": str(tmp_path)}, {}, BUILT_IN_KINDS)
    assert str(caught.value).startswith("coordinator.url: missing; `provider-agent init` writes")


def test_error_about_a_missing_url_lists_the_ways_to_set_it(tmp_path: Path) -> None:
    error = load_error(tmp_path, "[operator]\n")
    assert "coordinator.url: missing" in error
    assert "PROVIDER_AGENT_COORDINATOR_URL" in error
    # `check` and `config show` print this error too, but lack the option, so it names `run`.
    assert "`run --coordinator-url`" in error


def test_error_without_a_file_starts_with_the_key_and_lists_the_searched_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"/etc/provider-agent/agent\.toml") as caught:
        load_config(None, {"HOME": str(tmp_path)}, {}, BUILT_IN_KINDS)
    assert caught.value.problem == "coordinator.url: missing"


def test_log_level_accepts_capitals_and_the_level_names_of_other_libraries(tmp_path: Path) -> None:
    for name, level in (("WARN", "warning"), ("trace", "debug"), ("Info", "info")):
        text = f'{MINIMAL}[observability]\nlog_level = "{name}"\n'
        assert load(tmp_path, text).config.observability.log_level == level


def test_openai_compatible_accepts_formats(tmp_path: Path) -> None:
    text = MINIMAL + '[[backends]]\nkind="openai_compatible"\nurl="http://x:1"\nformats=["openai"]'
    assert load(tmp_path, text).config.backends[0].formats == (WireFormat.OPENAI,)


def test_integer_is_accepted_for_a_float_key(tmp_path: Path) -> None:
    text = MINIMAL + "[limits]\ndrain_timeout_s = 10\n"
    assert math.isclose(load(tmp_path, text).config.limits.drain_timeout_s, 10.0)


SEVERAL = """
[coordinator]
url = "c.example"
[limits]
max_conccurent = 2
max_tokens_per_minute = "many"
[pricing]
default_input_per_1m = 0.5
default_output_per_1m = 1
[[backends]]
kind = "vlm"
[[backends]]
kind = "vllm"
[[backends]]
url = "http://127.0.0.1:9000"
[observability]
log_level = "loud"
"""


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Only the first one was, so that a file was corrected line by line."""
    with pytest.raises(SeveralConfigErrors) as caught:
        load(tmp_path, SEVERAL)
    errors = [error.problem.partition(".toml: ")[2] for error in caught.value.errors]
    assert [error.partition(": ")[0] for error in errors] == [
        "limits.max_conccurent",
        "backends[2] (the third [[backends]])",
        "pricing.default_input_per_1m",
        "limits.max_tokens_per_minute",
        "observability.log_level",
        "coordinator.url",
        "backends[0].kind",
    ]


def test_number_of_reported_mistakes_is_bounded(tmp_path: Path) -> None:
    names = "\n".join(f"wrong_{number} = 1" for number in range(MAX_SHOWN + 5))
    error = load_error(tmp_path, f'[coordinator]\nurl = "wss://c/"\n[limits]\n{names}\n')
    assert error.startswith(f"{MAX_SHOWN + 5} settings are not valid:\n")
    assert error.count("unknown key") == MAX_SHOWN
    assert error.endswith("\n  and 5 more")


def test_wrong_value_causes_no_second_error(tmp_path: Path) -> None:
    for text in (
        '[pricing]\ndefault_input_per_1m = 0.5\ndefault_output_per_1m = "1 USD"\n',
        '[coordinator]\nclient_cert_file = ""\nclient_key_file = "x"\n',
        '[coordinator]\nulr = "wss://c/"\n',
    ):
        url = "" if "[coordinator]" in text else '[coordinator]\nurl = "wss://c/"\n'
        text = text.replace("[coordinator]\nc", '[coordinator]\nurl = "wss://c/"\nc')
        assert "\n" not in load_error(tmp_path, url + text)
