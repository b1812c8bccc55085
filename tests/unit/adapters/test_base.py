import msgspec
import pytest
from rich.pretty import pretty_repr

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BadStatus,
    ErrorInStream,
    Operation,
    WireFormat,
)
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.adapters.servers.openrouter import OpenRouterBackend
from provider_agent.adapters.servers.vllm import VllmBackend
from provider_agent.protocol.errors import ErrorCode

KEY = "sk-operator-0123456789"
SETTINGS = BackendSettings(kind="vllm", url="http://a:8000", api_key=KEY)


@pytest.mark.parametrize("show", [repr, str, pretty_repr, lambda one: f"{[one]}"])
def test_settings_never_show_the_key(show: object) -> None:
    assert callable(show)
    shown = show(SETTINGS)

    assert KEY not in shown
    assert "set" in shown


def test_a_backend_shows_itself_without_the_key() -> None:
    assert repr(VllmBackend(SETTINGS)) == "<VllmBackend vllm:http://a:8000>"


def test_a_passthrough_is_known_by_its_kind_alone() -> None:
    settings = BackendSettings(kind="openrouter", url="https://somewhere/api", api_key=KEY)

    assert OpenRouterBackend(settings).id == "openrouter"
    assert EchoBackend(BackendSettings(kind="echo")).id == "echo"


def test_the_operators_limit_comes_before_the_kinds_own() -> None:
    limited = msgspec.structs.replace(SETTINGS, max_concurrent=3)

    assert VllmBackend(limited).max_concurrent == 3
    assert VllmBackend(SETTINGS).max_concurrent == VllmBackend.default_max_concurrent


def test_the_formats_of_a_model_follow_from_its_operations() -> None:
    model = BackendModel(
        model_id="m",
        context_window=None,
        native=True,
        operations=frozenset({Operation.CHAT, Operation.COUNT_TOKENS}),
        upstream_id="m",
    )

    assert model.formats == {WireFormat.OPENAI, WireFormat.ANTHROPIC}


def test_errors_carry_what_the_server_said_outside_their_text() -> None:
    status = BadStatus(429, b"body", ErrorCode.BACKEND_OVERLOADED, 3.0)
    inside = ErrorInStream(b"body", ErrorCode.BACKEND_ERROR)

    assert (status.status, status.body, status.retry_after_s) == (429, b"body", 3.0)
    assert (inside.status, inside.body, inside.code) == (None, b"body", ErrorCode.BACKEND_ERROR)
    assert "body" not in str(status) + str(inside)
