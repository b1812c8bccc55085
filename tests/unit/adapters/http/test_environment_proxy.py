import pytest

from provider_agent.adapters.http.environment_proxy import environment_proxy

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "inside.example,.local,direct.example:8443")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://openrouter.ai/api", PROXY),
        ("http://openrouter.ai/api", None),
        ("https://inside.example", None),
        ("https://deep.inside.example", None),
        ("https://box.local/x", None),
        ("https://direct.example:8443", None),
        ("https://direct.example", PROXY),
        ("nonsense", None),
        ("http://[::1", None),
        ("https://host:99999", None),
        ("", None),
    ],
)
def test_proxy_depends_on_scheme_host_and_port(url: str, proxy: str | None) -> None:
    assert environment_proxy(url) == proxy


def test_no_proxy_is_used_without_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY")

    assert environment_proxy("https://openrouter.ai/api") is None
