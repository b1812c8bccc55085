"""Adapters as test parameters: with a fake server, with a real server, and the echo adapter."""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pytest

from provider_agent.adapters.base import Backend, BackendSettings, Job, Operation, WireFormat
from provider_agent.adapters.registry import backend_class, create_backend
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.protocol.formats import MAIN_OPERATION
from tests.kit.fakes import (
    FakeLlamaCpp,
    FakeLmStudio,
    FakeOllama,
    FakeOpenAICompatible,
    FakeOpenAIPassthrough,
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

EMBEDDINGS: Final = Operation.EMBEDDINGS
TEXT: Final = frozenset(Operation) - {EMBEDDINGS}
"""The operations of a generating model."""

WITHOUT_COUNT_TOKENS: Final = TEXT - {Operation.COUNT_TOKENS}
LISTED: Final = ("*",)
"""The setting `models` for passthroughs, which offer no models without this setting."""

PROMPT: Final = "Say something, please."


@dataclass(frozen=True)
class Expected:
    """The expected model list entry and behavior of a backend."""

    model_id: str
    upstream_id: str
    window: int | None
    """The context window; None: any."""
    operations: frozenset[Operation] = WITHOUT_COUNT_TOKENS
    embedder: str = ""
    """The id of a model for embeddings; "" if the server has none."""
    version: str | None = ""
    """The expected version; None: any version except ""."""
    reports_load: bool = False
    checks_key: bool = True
    """Whether the server rejects a wrong API key."""
    asks_for_usage: bool = True
    """Whether the adapter adds `include_usage` to the request of a stream."""
    usage: tuple[int, int] | None = (INPUT_TOKENS, OUTPUT_TOKENS)
    """The expected counts of input and output tokens; None: any that the server reports."""

    @property
    def formats(self) -> frozenset[WireFormat]:
        """The wire formats of the operations."""
        return frozenset(operation.wire_format for operation in self.operations)


@dataclass
class AdapterUnderTest:
    """One backend under test; `server` is set if the server is a fake."""

    backend: Backend
    expected: Expected
    server: FakeServer | None = None
    extra_backends: list[Backend] = field(default_factory=list)

    def job(self, wire_format: WireFormat = OPENAI, *, stream: bool = True, **more: object) -> Job:
        """Create a job of the format's main operation, with additional request fields."""
        return self.job_for(MAIN_OPERATION[wire_format], stream=stream, **more)

    def job_for(self, operation: Operation, *, stream: bool = True, **more: object) -> Job:
        """Create a job for this operation, with additional request fields."""
        model_id = self.expected.model_id
        fields: dict[str, object] = {"stream": stream}
        match operation:
            case Operation.EMBEDDINGS:
                model_id = self.expected.embedder
                fields = {"input": PROMPT}
            case Operation.RESPONSES:
                fields |= {"input": PROMPT, "max_output_tokens": 16}
            case Operation.COMPLETIONS:
                fields |= {"prompt": PROMPT, "max_tokens": 5}
            case Operation.COUNT_TOKENS:
                fields = {"messages": [{"role": "user", "content": PROMPT}]}
            case _:
                fields |= {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}
        return Job(
            job_id=uuid.uuid4().bytes,
            model_id=model_id,
            format=operation.wire_format,
            operation=operation,
            request=msgspec.json.encode({"model": model_id, **fields, **more}),
            deadline_ms=60_000,
        )

    def with_settings(self, **changes: object) -> Backend:
        """Create another backend for the same server, with changed settings."""
        backend = create_backend(msgspec.structs.replace(self.backend.settings, **changes))
        self.extra_backends.append(backend)
        return backend


FAKES: Final[dict[str, tuple[Callable[[], FakeServer], Expected]]] = {
    "vllm": (
        lambda: FakeVllm(api_key=KEY),
        Expected(
            vllm.MODEL,
            vllm.MODEL,
            vllm.CONTEXT_WINDOW,
            operations=TEXT,
            version="0.32.0",
            reports_load=True,
        ),
    ),
    "llamacpp": (
        lambda: FakeLlamaCpp(api_key=KEY),
        Expected(
            llamacpp.MODEL,
            llamacpp.FILE,
            llamacpp.CONTEXT_WINDOW,
            operations=TEXT,
            version="b9999",
            reports_load=True,
        ),
    ),
    "lmstudio": (
        lambda: FakeLmStudio(api_key=KEY),
        Expected(
            lmstudio.MODEL, lmstudio.MODEL, lmstudio.CONTEXT_WINDOW, embedder=lmstudio.EMBEDDER
        ),
    ),
    "ollama": (
        lambda: FakeOllama(api_key=KEY),
        Expected(
            ollama.MODEL,
            ollama.MODEL,
            ollama.CONTEXT_WINDOW,
            embedder=ollama.EMBEDDER,
            version="0.30.1",
            checks_key=False,
        ),
    ),
    "openrouter": (
        lambda: FakeOpenRouter(api_key=KEY),
        Expected(
            openrouter.MODEL,
            openrouter.MODEL,
            openrouter.CONTEXT_WINDOW,
            embedder=openrouter.EMBEDDER,
            asks_for_usage=False,
        ),
    ),
    "venice": (
        lambda: FakeVenice(api_key=KEY),
        Expected(
            venice.MODEL,
            venice.MODEL,
            venice.CONTEXT_WINDOW,
            operations=frozenset({Operation.CHAT}),
            embedder=venice.EMBEDDER,
            version=venice.VERSION,
        ),
    ),
    "openai_compatible": (
        lambda: FakeOpenAICompatible(api_key=KEY),
        Expected(
            openai_compatible.MODEL,
            openai_compatible.MODEL,
            openai_compatible.CONTEXT_WINDOW,
            operations=frozenset(Operation),
            embedder=openai_compatible.MODEL,
        ),
    ),
    "openai_passthrough": (
        lambda: FakeOpenAIPassthrough(api_key=KEY),
        Expected(
            openai_compatible.MODEL,
            openai_compatible.MODEL,
            openai_compatible.CONTEXT_WINDOW,
            operations=frozenset(Operation),
            embedder=openai_compatible.MODEL,
        ),
    ),
}
ECHO: Final = Expected(
    "echo",
    "echo",
    None,
    operations=frozenset({Operation.CHAT, Operation.MESSAGES, Operation.COUNT_TOKENS}),
    checks_key=False,
    usage=None,
)
REAL_LLAMACPP: Final = Expected(
    "tiny",
    "tiny",
    None,
    operations=TEXT,
    version=None,
    reports_load=True,
    checks_key=False,
    usage=None,
)

VLLM_URL: Final = os.environ.get("TEST_VLLM_URL", "")
"""The address of a real vLLM; if it is empty, no test uses a real vLLM."""

VLLM_KEY: Final = os.environ.get("TEST_VLLM_KEY") or None
_VLLM_MODEL: Final = os.environ.get("TEST_VLLM_MODEL", "tiny")
REAL_VLLM: Final = Expected(
    _VLLM_MODEL,
    _VLLM_MODEL,
    None,
    operations=TEXT,
    version=None,
    reports_load=True,
    checks_key=VLLM_KEY is not None,
    usage=None,
)

REAL: Final = {
    "real-llamacpp": REAL_LLAMACPP,
    **({"real-vllm": REAL_VLLM} if VLLM_URL else {}),
}
ADAPTERS: Final = {
    **{name: expected for name, (_, expected) in FAKES.items()},
    "echo": ECHO,
    **REAL,
}


def parametrize_adapters(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test with each of these adapters."""
    adapters = [pytest.param(name, marks=_marks(name)) for name in names]
    return pytest.mark.parametrize("adapter", adapters, indirect=True)


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.vllm] if name == "real-vllm" else []


def parametrize_formats(
    names: Iterable[str], *formats: WireFormat, supported: bool = True
) -> pytest.MarkDecorator:
    """Run a test with each adapter and each of `formats` that it supports.

    Without `formats`: all formats. With `supported=False`: those that it does not support.
    """
    pairs = [
        pytest.param(name, wire_format, marks=_marks(name))
        for name in names
        for wire_format in formats or (OPENAI, ANTHROPIC)
        if (wire_format in ADAPTERS[name].formats) is supported
    ]
    return pytest.mark.parametrize(("adapter", "wire_format"), pairs, indirect=["adapter"])


def parametrize_operations(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test with each adapter and each of its operations."""
    pairs = [
        pytest.param(name, operation, marks=_marks(name))
        for name in names
        for operation in Operation
        if operation in ADAPTERS[name].operations
        or (operation is EMBEDDINGS and ADAPTERS[name].embedder)
    ]
    return pytest.mark.parametrize(("adapter", "operation"), pairs, indirect=["adapter"])


def parametrize_values(name: str, values: Sequence[object]) -> pytest.MarkDecorator:
    """Run a test with each value on one kind, and with one value on every other kind.

    All kinds share the code under test, so one value is enough to show that a kind calls this code.
    """
    first, *others = FAKES
    pairs = [(first, value) for value in values] + [(kind, values[0]) for kind in others]
    ids = [f"{kind}-{index}" for index, (kind, _) in enumerate(pairs)]
    return pytest.mark.parametrize(("adapter", name), pairs, indirect=["adapter"], ids=ids)


every_backend = parametrize_adapters(ADAPTERS)
every_server = parametrize_adapters([*FAKES, *REAL])
every_fake = parametrize_adapters(FAKES)


@pytest.fixture
async def adapter(
    request: pytest.FixtureRequest,
    llamacpp_server: LlamaCppProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[AdapterUnderTest]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncExitStack() as running:
        if request.param == "echo":
            under_test = AdapterUnderTest(create_backend(BackendSettings(kind="echo")), ECHO)
        elif request.param == "real-vllm":
            settings = BackendSettings(kind="vllm", url=VLLM_URL, api_key=VLLM_KEY)
            under_test = AdapterUnderTest(create_backend(settings), REAL_VLLM)
        elif request.param == "real-llamacpp":
            settings = BackendSettings(kind="llamacpp", url=llamacpp_server.url)
            under_test = AdapterUnderTest(create_backend(settings), REAL_LLAMACPP)
        else:
            create_server, expected = FAKES[request.param]
            server = await running.enter_async_context(create_server())
            settings = BackendSettings(
                kind=server.kind,
                url=server.url,
                api_key=KEY,
                formats=(OPENAI, ANTHROPIC),
                models=None if backend_class(server.kind).native else LISTED,
            )
            under_test = AdapterUnderTest(create_backend(settings), expected, server)
        yield under_test
        for backend in (under_test.backend, *under_test.extra_backends):
            await backend.close()
