"""docs/coordinator.md describes every option, field and metric."""

import logging
import re
from pathlib import Path

import click
import pytest

from provider_agent.coordinator.command import command
from provider_agent.coordinator.http.client_errors import error_of_reason
from provider_agent.coordinator.http.metrics import Gauges, Metrics
from provider_agent.coordinator.http.request_record import RequestRecord
from provider_agent.coordinator.reason import Reason
from provider_agent.protocol.formats import Operation

TEXT = (Path(__file__).parents[3] / "docs" / "coordinator.md").read_text(encoding="utf-8")


def test_every_option_is_documented() -> None:
    options = {
        parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option)
    }
    assert options == set(re.findall(r"`(--[a-z-]+)", TEXT))


def test_every_field_of_the_log_line_is_documented(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    RequestRecord(Operation.CHAT, lambda: 0.0, 0.0).log(1.0)
    fields = getattr(caplog.records[0], "fields", {})
    table = TEXT.partition("## Log")[2].partition("## Metrics")[0]
    assert {name for name in fields if f"`{name}`" not in table} == set()


def test_every_reason_is_documented_with_its_status_and_code() -> None:
    table = TEXT.partition("### Reasons")[2].partition("## Metrics")[0]
    rows = [row.split("|") for row in table.splitlines()[4:] if row]
    documented = {name: row[2].strip() for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    errors = {reason: error_of_reason(reason) for reason in Reason}
    assert documented == {
        reason: f"{error.status} `{error.code}`" for reason, error in errors.items()
    }


def test_every_metric_is_documented() -> None:
    metrics = Metrics(lambda: Gauges(*(0 for _ in Gauges.__struct_fields__)))
    families = {family.name for family in metrics.registry.collect()}
    names = re.findall(r"`(coordinator_\w+)", TEXT.partition("## Metrics")[2])
    documented = {name.removesuffix("_total") for name in names}
    assert documented == {name for name in families if not name.startswith("process_")}
