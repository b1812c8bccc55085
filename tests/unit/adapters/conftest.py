"""Fixtures that create backends for fake servers and close them after the test."""

import uuid
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import pytest

from provider_agent.adapters.base import Backend, BackendSettings, Job, WireFormat
from provider_agent.adapters.registry import backend_class, create_backend
from tests.kit.fakes import FakeServer


class Connect(Protocol):
    """Creates a backend for a fake server; `settings` override its default settings."""

    def __call__(self, server: FakeServer, **settings: object) -> Backend: ...


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    created: list[Backend] = []

    def connect_to(server: FakeServer, **settings: object) -> Backend:
        # Without the setting `models`, a passthrough offers no model.
        models = None if backend_class(server.kind).native else ("*",)
        defaults = BackendSettings(
            kind=server.kind, url=server.url, api_key=server.api_key, models=models
        )
        created.append(create_backend(msgspec.structs.replace(defaults, **settings)))
        return created[-1]

    yield connect_to
    for backend in created:
        await backend.close()


def a_job(
    model_id: str,
    wire_format: WireFormat = WireFormat.OPENAI,
    *,
    stream: bool = True,
    **fields: object,
) -> Job:
    """Return a job that any fake server accepts."""
    request = {
        "model": model_id,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "stream": stream,
        **fields,
    }
    return Job(
        job_id=uuid.uuid4().bytes,
        model_id=model_id,
        format=wire_format,
        request=msgspec.json.encode(request),
        deadline_ms=60_000,
    )
