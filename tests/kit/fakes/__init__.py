"""Fake inference servers, one per kind: real HTTP on loopback, with each server's own faults."""

from tests.kit.fakes.llamacpp import FakeLlamaCpp
from tests.kit.fakes.lmstudio import FakeLmStudio
from tests.kit.fakes.ollama import FakeOllama
from tests.kit.fakes.openai_compatible import FakeOpenAICompatible
from tests.kit.fakes.openrouter import FakeOpenRouter
from tests.kit.fakes.server import Answer, Exchange, FakeServer, Fault, json_answer, stream_answer
from tests.kit.fakes.venice import FakeVenice
from tests.kit.fakes.vllm import FakeVllm

__all__ = [
    "Answer",
    "Exchange",
    "FakeLlamaCpp",
    "FakeLmStudio",
    "FakeOllama",
    "FakeOpenAICompatible",
    "FakeOpenRouter",
    "FakeServer",
    "FakeVenice",
    "FakeVllm",
    "Fault",
    "json_answer",
    "stream_answer",
]
