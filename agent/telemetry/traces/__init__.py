"""Traces of jobs in OpenTelemetry, if the environment asks for them (extra `otel`).

- `settings`: decides from the environment variables whether, and how often, to export.
- `job_spans`: the spans of one ended job, without OpenTelemetry.
- `exporter`: the thread that exports the traces of ended jobs, and its queue.
- `otlp`: turns spans into those of OpenTelemetry and sends them; the only module that imports it.
"""
