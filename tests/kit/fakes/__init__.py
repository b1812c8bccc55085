"""Fake inference servers over HTTP on loopback, one per kind, with the faults of each kind."""

from tests.kit.fakes.llamacpp import FakeLlamaCpp
from tests.kit.fakes.lmstudio import FakeLmStudio
from tests.kit.fakes.ollama import FakeOllama
from tests.kit.fakes.openai_compatible import FakeOpenAICompatible, FakeOpenAIPassthrough
from tests.kit.fakes.openrouter import FakeOpenRouter
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    Fault,
    RecordedRequest,
    json_response,
    stream_response,
)
from tests.kit.fakes.venice import FakeVenice
from tests.kit.fakes.vllm import FakeVllm

__all__ = [
    "FakeLlamaCpp",
    "FakeLmStudio",
    "FakeOllama",
    "FakeOpenAICompatible",
    "FakeOpenAIPassthrough",
    "FakeOpenRouter",
    "FakeResponse",
    "FakeServer",
    "FakeVenice",
    "FakeVllm",
    "Fault",
    "RecordedRequest",
    "json_response",
    "stream_response",
]
