"""A real llama.cpp server with a tiny model, as fixtures."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.tiny_model import write_tiny_model


class LlamaCppFactory(Protocol):
    async def __call__(
        self, *, stops: bool = False, parallel: int = 4, api_key: str | None = None
    ) -> LlamaCppProcess: ...


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose responses end only at `max_tokens`."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.fixture(scope="session")
def stopping_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose responses end on their own."""
    path = tmp_path_factory.mktemp("model") / "stopping.gguf"
    write_tiny_model(path, stops=True)
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def llamacpp_server(tiny_model: Path) -> AsyncIterator[LlamaCppProcess]:
    """One server for all tests: alias "tiny", four slots, no key."""
    async with LlamaCppProcess(tiny_model, alias="tiny", parallel=4) as server:
        yield server


@pytest.fixture
async def llamacpp_factory(
    tiny_model: Path, stopping_model: Path
) -> AsyncIterator[LlamaCppFactory]:
    """Start further servers, which stop at the end of the test."""
    async with AsyncExitStack() as running:

        async def start(
            *, stops: bool = False, parallel: int = 4, api_key: str | None = None
        ) -> LlamaCppProcess:
            model = stopping_model if stops else tiny_model
            server = LlamaCppProcess(model, parallel=parallel, api_key=api_key)
            return await running.enter_async_context(server)

        yield start
