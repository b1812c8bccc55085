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
def test_repr_of_settings_omits_the_key(show: object) -> None:
    assert callable(show)
    shown = show(SETTINGS)

    assert KEY not in shown
    assert "set" in shown


def test_repr_of_a_backend_omits_the_key() -> None:
    assert repr(VllmBackend(SETTINGS)) == "<VllmBackend vllm:http://a:8000>"


def test_id_of_a_passthrough_or_of_echo_is_its_kind() -> None:
    settings = BackendSettings(kind="openrouter", url="https://somewhere/api", api_key=KEY)

    assert OpenRouterBackend(settings).id == "openrouter"
    assert EchoBackend(BackendSettings(kind="echo")).id == "echo"


def test_operator_limit_overrides_the_default_of_the_kind() -> None:
    limited = msgspec.structs.replace(SETTINGS, max_concurrent=3)

    assert VllmBackend(limited).max_concurrent == 3
    assert VllmBackend(SETTINGS).max_concurrent == VllmBackend.default_max_concurrent


def test_formats_of_a_model_follow_from_its_operations() -> None:
    model = BackendModel(
        model_id="m",
        context_window=None,
        native=True,
        operations=frozenset({Operation.CHAT, Operation.COUNT_TOKENS}),
        upstream_id="m",
    )

    assert model.formats == {WireFormat.OPENAI, WireFormat.ANTHROPIC}


def test_error_body_is_not_part_of_the_error_text() -> None:
    status = BadStatus(429, b"body", ErrorCode.BACKEND_OVERLOADED, 3.0)
    in_stream = ErrorInStream(b"body", ErrorCode.BACKEND_ERROR)

    assert (status.status, status.body, status.retry_after_s) == (429, b"body", 3.0)
    assert (in_stream.status, in_stream.body, in_stream.code) == (
        None,
        b"body",
        ErrorCode.BACKEND_ERROR,
    )
    assert "body" not in str(status) + str(in_stream)
