"""What each kind of server reports about the requests that its models accept."""

import pytest

from provider_agent.adapters.base import BackendModel
from provider_agent.adapters.servers.input_kinds import MAX_KINDS, kinds_from_names
from tests.kit.fakes import (
    FakeLlamaCpp,
    FakeLmStudio,
    FakeOllama,
    FakeOpenAICompatible,
    FakeOpenRouter,
    FakeServer,
    FakeVenice,
    FakeVllm,
    llamacpp,
    lmstudio,
    ollama,
    openai_compatible,
    openrouter,
    venice,
    vllm,
)
from tests.unit.adapters.conftest import Connect

Features = tuple[frozenset[str] | None, bool | None, bool | None, bool | None, int | None]

TEXT = frozenset({"text"})
IMAGES = TEXT | {"image"}
NOT_REPORTED: Features = (None, None, None, None, None)


class _OldLmStudio(FakeLmStudio):
    """LM Studio 0.3.16, without the model list that 0.4.0 added."""

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.api = "v0"


class _OldestLmStudio(_OldLmStudio):
    """A version that lists models only in the OpenAI format."""

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.api = "openai"


def features(model: BackendModel) -> Features:
    return (
        model.input_kinds,
        model.tools,
        model.json_schema,
        model.reasoning,
        model.max_output_tokens,
    )


@pytest.mark.parametrize(
    ("server_type", "model_id", "reported"),
    [
        (FakeVllm, vllm.MODEL, NOT_REPORTED),
        (FakeOpenAICompatible, openai_compatible.MODEL, NOT_REPORTED),
        (FakeLlamaCpp, llamacpp.MODEL, (IMAGES, True, None, None, None)),
        (FakeOllama, ollama.MODEL, (TEXT, True, None, False, 32_768)),  # the agent's own limit
        (FakeOllama, ollama.PINNED, (IMAGES, False, None, True, 32_768)),
        (FakeLmStudio, lmstudio.MODEL, (IMAGES, True, None, True, None)),
        (FakeLmStudio, lmstudio.UNLOADED, (TEXT, False, None, None, None)),
        (FakeLmStudio, lmstudio.EMBEDDER, NOT_REPORTED),
        (_OldLmStudio, lmstudio.MODEL, (TEXT, True, None, None, None)),
        (_OldLmStudio, lmstudio.UNLOADED, (IMAGES, None, None, None, None)),
        (_OldestLmStudio, lmstudio.MODEL, NOT_REPORTED),
        (FakeOpenRouter, openrouter.MODEL, (IMAGES | {"file"}, True, True, False, 8192)),
        (FakeOpenRouter, "acme/auto", (TEXT, None, None, None, None)),
        (FakeVenice, venice.MODEL, (TEXT, True, True, False, 8192)),
        (FakeVenice, venice.EMBEDDER, NOT_REPORTED),
    ],
)
async def test_a_feature_is_known_exactly_if_the_server_reports_it(
    connect: Connect, server_type: type[FakeServer], model_id: str, reported: Features
) -> None:
    async with server_type(api_key="sk-0123456789") as server:
        models = {model.model_id: model for model in await connect(server).list_models()}

    assert features(models[model_id]) == reported


async def test_llamacpp_model_without_tools_in_its_template_does_not_support_tools(
    connect: Connect,
) -> None:
    async with FakeLlamaCpp() as server:
        server.tools = False
        (model,) = await connect(server).list_models()

    assert model.tools is False


def test_names_of_input_kinds_are_checked_and_bounded() -> None:
    assert kinds_from_names(None) is None
    assert kinds_from_names(["Text", "", "a b", "x" * 33, "\x1b[31m"]) is None
    assert kinds_from_names(["text", "image", "text"]) == IMAGES
    many = kinds_from_names(f"kind{number:02}" for number in range(99))
    assert many is not None
    assert len(many) == MAX_KINDS
