from collections.abc import Mapping

import pytest

from provider_agent.agent.telemetry.traces.settings import (
    TraceSettings,
    TraceSettingsError,
    is_installed,
    trace_settings,
)

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"},
    ],
)
def test_traces_are_off_unless_the_environment_asks_for_them(environ: Mapping[str, str]) -> None:
    assert trace_settings(environ, lambda: False) is None


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        (ENDPOINT, TraceSettings("http://collector:4318")),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces/v1/traces"},
            TraceSettings("http://traces/v1/traces"),
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, TraceSettings("http://localhost:4318")),
        (
            {
                **ENDPOINT,
                "OTEL_BSP_SCHEDULE_DELAY": "250",
                "OTEL_BSP_MAX_QUEUE_SIZE": "10",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_SDK_DISABLED": "false",
            },
            TraceSettings("http://collector:4318", 0.25, 10, 5),
        ),
    ],
)
def test_standard_variables_configure_the_export(
    environ: Mapping[str, str], settings: TraceSettings
) -> None:
    assert trace_settings(environ, lambda: True) == settings


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not supported; set"),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "grpc is not supported; set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            "is not an http:// or https://",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "write it like http://localhost:4318"),
        (ENDPOINT | {"OTEL_BSP_MAX_QUEUE_SIZE": "many"}, "OTEL_BSP_MAX_QUEUE_SIZE is not a number"),
        (ENDPOINT | {"OTEL_BSP_SCHEDULE_DELAY": "0"}, "OTEL_BSP_SCHEDULE_DELAY is not a number"),
        (ENDPOINT | {"OTEL_BSP_SCHEDULE_DELAY": "9" * 5000}, "is not a number from 1 to 1000000"),
    ],
)
def test_what_is_not_supported_is_named_with_a_remedy(
    environ: Mapping[str, str], words: str
) -> None:
    with pytest.raises(TraceSettingsError, match=words):
        trace_settings(environ, lambda: True)


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    with pytest.raises(TraceSettingsError, match=r"pip install 'provider-agent\[otel\]'"):
        trace_settings(ENDPOINT, lambda: False)


def test_extra_is_found_if_it_is_installed() -> None:
    assert is_installed()
