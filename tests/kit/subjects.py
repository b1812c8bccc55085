"""The backends that conformance tests run over: a fake of each kind, echo, and a real llama.cpp."""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pytest

from adapters.base import Backend, BackendSettings, Job, WireFormat
from adapters.registry import create_backend
from agent.demo.llamacpp_process import LlamaCppProcess
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
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS

KEY: Final = "sk-operator-0123456789"
OPENAI: Final = WireFormat.OPENAI
ANTHROPIC: Final = WireFormat.ANTHROPIC


@dataclass(frozen=True)
class Expected:
    """What a backend must say of one of its models, and how it must ask its server."""

    model_id: str
    upstream_id: str
    window: int | None
    formats: frozenset[WireFormat] = frozenset({OPENAI, ANTHROPIC})
    checks_key: bool = True
    asks_for_usage: bool = True
    usage: tuple[int, int] | None = (INPUT_TOKENS, OUTPUT_TOKENS)
    """None: the server's own count, which only must be there."""


@dataclass
class Subject:
    """One backend under test; `server` is there when it is a fake."""

    backend: Backend
    expected: Expected
    server: FakeServer | None = None
    others: list[Backend] = field(default_factory=list)

    def job(self, wire_format: WireFormat = OPENAI, *, stream: bool = True, **more: object) -> Job:
        """A job with the given request fields beside the usual ones."""
        request = {
            "model": self.expected.model_id,
            "messages": [{"role": "user", "content": "Say something, please."}],
            "max_tokens": 5,
            "stream": stream,
            **more,
        }
        return Job(
            job_id=uuid.uuid4().bytes,
            model_id=self.expected.model_id,
            format=wire_format,
            request=msgspec.json.encode(request),
            deadline_ms=60_000,
        )

    def with_settings(self, **different: object) -> Backend:
        """Another backend for the same server."""
        other = create_backend(msgspec.structs.replace(self.backend.settings, **different))
        self.others.append(other)
        return other


FAKES: Final[dict[str, tuple[Callable[[], FakeServer], Expected]]] = {
    "vllm": (
        lambda: FakeVllm(api_key=KEY),
        Expected(vllm.MODEL, vllm.MODEL, vllm.WINDOW),
    ),
    "llamacpp": (
        lambda: FakeLlamaCpp(api_key=KEY),
        Expected(llamacpp.MODEL, llamacpp.FILE, llamacpp.WINDOW),
    ),
    "lmstudio": (
        lambda: FakeLmStudio(api_key=KEY),
        Expected(lmstudio.MODEL, lmstudio.MODEL, lmstudio.WINDOW),
    ),
    "ollama": (
        lambda: FakeOllama(api_key=KEY),
        Expected(ollama.MODEL, ollama.MODEL, ollama.WINDOW, checks_key=False),
    ),
    "openrouter": (
        lambda: FakeOpenRouter(api_key=KEY),
        Expected(openrouter.MODEL, openrouter.MODEL, openrouter.WINDOW, asks_for_usage=False),
    ),
    "venice": (
        lambda: FakeVenice(api_key=KEY),
        Expected(venice.MODEL, venice.MODEL, venice.WINDOW, formats=frozenset({OPENAI})),
    ),
    "openai_compatible": (
        lambda: FakeOpenAICompatible(api_key=KEY),
        Expected(openai_compatible.MODEL, openai_compatible.MODEL, openai_compatible.WINDOW),
    ),
}
ECHO: Final = Expected("echo", "echo", None, checks_key=False, usage=None)
REAL_LLAMACPP: Final = Expected("tiny", "tiny", None, checks_key=False, usage=None)

VLLM_URL: Final = os.environ.get("TEST_VLLM_URL", "")
"""A real vLLM takes part when it is named here."""

VLLM_KEY: Final = os.environ.get("TEST_VLLM_KEY") or None
_VLLM_MODEL: Final = os.environ.get("TEST_VLLM_MODEL", "tiny")
REAL_VLLM: Final = Expected(
    _VLLM_MODEL, _VLLM_MODEL, None, checks_key=VLLM_KEY is not None, usage=None
)

REAL: Final = {
    "real-llamacpp": REAL_LLAMACPP,
    **({"real-vllm": REAL_VLLM} if VLLM_URL else {}),
}
SUBJECTS: Final = {
    **{name: expected for name, (_, expected) in FAKES.items()},
    "echo": ECHO,
    **REAL,
}


def over(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test over these subjects."""
    subjects = [pytest.param(name, marks=_marks(name)) for name in names]
    return pytest.mark.parametrize("subject", subjects, indirect=True)


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.vllm] if name == "real-vllm" else []


def over_formats(
    names: Iterable[str], *wanted: WireFormat, spoken: bool = True
) -> pytest.MarkDecorator:
    """Run a test over these subjects, once per wanted format that they speak (or do not)."""
    pairs = [
        pytest.param(name, wire_format, marks=_marks(name))
        for name in names
        for wire_format in wanted or (OPENAI, ANTHROPIC)
        if (wire_format in SUBJECTS[name].formats) is spoken
    ]
    return pytest.mark.parametrize(("subject", "wire_format"), pairs, indirect=["subject"])


every_backend = over(SUBJECTS)
every_server = over([*FAKES, *REAL])
every_fake = over(FAKES)


@pytest.fixture
async def subject(
    request: pytest.FixtureRequest,
    llamacpp_server: LlamaCppProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Subject]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncExitStack() as running:
        if request.param == "echo":
            found = Subject(create_backend(BackendSettings(kind="echo")), ECHO)
        elif request.param == "real-vllm":
            settings = BackendSettings(kind="vllm", url=VLLM_URL, api_key=VLLM_KEY)
            found = Subject(create_backend(settings), REAL_VLLM)
        elif request.param == "real-llamacpp":
            settings = BackendSettings(kind="llamacpp", url=llamacpp_server.url)
            found = Subject(create_backend(settings), REAL_LLAMACPP)
        else:
            make, expected = FAKES[request.param]
            server = await running.enter_async_context(make())
            settings = BackendSettings(
                kind=server.kind, url=server.url, api_key=KEY, formats=(OPENAI, ANTHROPIC)
            )
            found = Subject(create_backend(settings), expected, server)
        yield found
        for backend in (found.backend, *found.others):
            await backend.close()
