import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from provider_agent.agent.telemetry.traces.job_spans import JobSpan
from provider_agent.agent.telemetry.traces.otlp import OtlpSender
from tests.kit.otlp_collector import OtlpCollector

SPAN = JobSpan("job", 1, 2, {})


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:PASSWORD@{place}"},
            "TLS failed",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@127.0.0.1:9"}, "cannot be reached"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:PASSWORD@{place}",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/file",
            },
            "TLS failed; see OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@{place}",
                "OTEL_EXPORTER_OTLP_HEADERS": "key=PASSWORD%0Ax",
            },
            "InvalidHeader",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@collector.example",
                "HTTP_PROXY": "http://user:PASSWORD@127.0.0.1:9",
            },
            "the proxy before the collector",
        ),
    ],
)
async def test_problem_names_the_cause_and_no_password(
    environ: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OtlpCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
        for name, value in environ.items():
            monkeypatch.setenv(name, value.replace("{place}", f"127.0.0.1:{collector.port}"))
        sender = OtlpSender({})
        problem = await asyncio.to_thread(sender.send, [("", [SPAN])])
        sender.close()
    assert reason in problem
    assert "PASSWORD" not in problem


async def test_invalid_traceparent_starts_a_new_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OtlpCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        sender = OtlpSender({})
        assert await asyncio.to_thread(sender.send, [("00-x-y-01", [SPAN])]) == ""
        sender.close()
    assert collector.named("job").parent_span_id == b""


@asynccontextmanager
async def collector_with(response: bytes, *, endless: bool = False) -> AsyncIterator[str]:
    """Serve one response for each request; with `endless`, repeat its last byte forever."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            await writer.drain()
            while endless:
                writer.write(response[-1:] * 65536)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("length", [b"", b"Content-Length: 99999999999\r\n"])
async def test_endless_response_is_not_read(length: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    response = b"HTTP/1.1 200 OK\r\n" + length + b"\r\nx"
    async with collector_with(response, endless=True) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        sender = OtlpSender({})
        assert await asyncio.to_thread(sender.send, [("", [SPAN])]) == ""
        sender.close()


async def test_redirect_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    response = (
        b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    )
    async with collector_with(response) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        sender = OtlpSender({})
        problem = await asyncio.to_thread(sender.send, [("", [SPAN])])
        sender.close()
    assert problem == "the collector responded with HTTP 307"
