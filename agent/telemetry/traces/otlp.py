"""Sends spans by OTLP over HTTP. Imports OpenTelemetry: only the exporter's thread imports this."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from provider_agent.agent.telemetry.traces.exporter import Trace
from provider_agent.agent.telemetry.traces.job_spans import FIRST_BYTE, JobSpan
from provider_agent.protocol.trace_context import is_traceparent


class OtlpSender:
    """Sends traces to the collector that the environment variables name.

    Args:
        resource: attributes of the agent; those of the environment take precedence.
    """

    def __init__(self, resource: Mapping[str, str]) -> None:
        # The packages log errors, once for each attempt and with values of variables.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._session = _Session()
        self._exporter = OTLPSpanExporter(session=self._session)
        self._ended = _EndedSpans()
        # The provider reads the sampler and the limits from the environment.
        provider = TracerProvider(resource=_resource(resource), shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("provider_agent")

    def send(self, traces: Sequence[Trace]) -> str:
        """Send traces; return "" or why the collector did not accept them."""
        for traceparent, spans in traces:
            self._build(traceparent, spans)
            time.sleep(0)  # lets the event loop run, which would wait up to 5 ms for this thread
        spans_to_send = self._ended.take()
        if not spans_to_send:  # not sampled
            return ""
        self._session.problem = ""
        result = self._exporter.export(spans_to_send)
        if self._session.problem:  # a redirect counts as a success there
            return self._session.problem
        return "" if result is SpanExportResult.SUCCESS else "the spans could not be encoded"

    def close(self) -> None:
        """Give up the request that waits for the collector; may be called in any thread."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _build(self, traceparent: str, spans: Sequence[JobSpan]) -> None:
        first, *others = spans
        context = None
        if is_traceparent(traceparent):
            context = set_span_in_context(NonRecordingSpan(_parent(traceparent)))
        job = self._tracer.start_span(
            first.name, context, SpanKind.SERVER, first.attributes, start_time=first.start_ns
        )
        in_job = set_span_in_context(job)
        for one in others:
            span = self._tracer.start_span(
                one.name,
                in_job,
                SpanKind.CLIENT if one.is_client else SpanKind.INTERNAL,
                one.attributes,
                start_time=one.start_ns,
            )
            if one.first_byte_ns is not None:
                span.add_event(FIRST_BYTE, timestamp=one.first_byte_ns)
            if one.error:
                span.set_status(Status(StatusCode.ERROR, one.error))
            span.end(one.end_ns)
        if first.error:
            job.set_status(Status(StatusCode.ERROR, first.error))
        job.end(first.end_ns)


class _EndedSpans(SpanProcessor):
    """Keeps ended spans until they are sent."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


_MAX_BODY_BYTES: Final = 4096
"""A collector answers with less; the connection is used again after it."""


class _Session(requests.Session):
    """Remembers why the last request failed, without the address, which may contain a password.

    Of the responses, only the head counts: an endless body must not fill the memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        try:
            response = super().request(*args, **{**kwargs, "stream": True})
        except Exception as error:
            self.problem = _reason(error)
            raise
        _skip_body(response)
        status = response.status_code
        self.problem = "" if 200 <= status < 300 else f"the collector responded with HTTP {status}"
        return response


def _skip_body(response: requests.Response) -> None:
    length = response.headers.get("Content-Length", "")
    # Without an error of the body: the head has said what happened to the spans.
    with closing(response) as unread, suppress(Exception):
        if length.isdecimal() and int(length[:10]) <= _MAX_BODY_BYTES:
            unread.raw.read(_MAX_BODY_BYTES)


_REASONS: Final = (
    (requests.Timeout, "the collector did not respond in time"),
    (requests.exceptions.ProxyError, "the proxy before the collector cannot be reached"),
    (
        requests.exceptions.SSLError,
        "TLS failed; see OTEL_EXPORTER_OTLP_CERTIFICATE",
    ),
    (requests.ConnectionError, "the collector cannot be reached"),
)
"""The first one whose class fits."""


def _reason(error: Exception) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    # Not its text, which contains the address, and that may contain a password.
    return f"the request could not be sent: {type(error).__name__}"


def _resource(attributes: Mapping[str, str]) -> Resource:
    """Return the resource; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME take precedence."""
    named = OTELResourceDetector().detect().attributes
    return Resource.create({key: attributes[key] for key in attributes.keys() - named.keys()})


def _parent(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
