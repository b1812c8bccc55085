"""The dashboard and the alert rules name only what a real agent exposes."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from documentation.markdown import anchors
from provider_agent.protocol.errors import REGISTRY, Fault
from provider_agent.protocol.frames import Capabilities, JobResult, RoutingStatus
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.wrong_servers import closed_port
from tests.unit.deploy.promql import named_labels

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "provider-agent.json"
OF_EVERY_TARGET = {"job", "instance"}
"""The labels that Prometheus adds."""
OF_PROMETHEUS = {"up": set[str]()}
"""The metrics that Prometheus itself has for every target."""


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def targets() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", [])


def queries() -> Iterator[str]:
    for target in targets():
        yield target["expr"].replace("$__rate_interval", "5m")


async def exposed() -> dict[str, set[str]]:
    """Return the labels of each metric of an agent that has run a job and refused another."""
    backend = ScriptedBackend("a", model("m", prices=(500_000, 500_000)))
    async with ScriptedCoordinator() as coordinator:
        address = f"127.0.0.1:{closed_port()}"
        config = agent_config(coordinator.url, prometheus_addr=address)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            offered = await peer.next(Capabilities)
            await peer.send(RoutingStatus(offered.revision, []))
            job, refused = new_job(), new_job("unknown")
            await peer.send_jobs(job, refused)
            (await backend.next_run()).answer(b"one ", b"two")
            assert isinstance(await peer.end(job.job_id), JobResult)
            await peer.end(refused.job_id)
            page = await metrics_page(address)
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def metrics_page(address: str) -> str:
    url = f"http://{address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


@pytest.fixture(scope="module")
def metrics() -> Mapping[str, set[str]]:
    return asyncio.run(exposed()) | OF_PROMETHEUS


@pytest.mark.parametrize("query", [*queries(), *(rule["expr"] for rule in rules())])
def test_every_metric_and_label_exists(query: str, metrics: Mapping[str, set[str]]) -> None:
    for name, labels in named_labels(query).items():
        assert name in metrics
        assert labels <= metrics[name] | OF_EVERY_TARGET, name


def test_every_variable_of_the_dashboard_is_a_label_of_a_metric(
    metrics: Mapping[str, set[str]],
) -> None:
    variables = [one for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    assert variables
    for variable in variables:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert found is not None
        ((name, labels),) = named_labels(found[1]).items()
        assert labels | {found[2]} <= metrics[name] | OF_EVERY_TARGET


def test_every_legend_names_labels_of_its_query(metrics: Mapping[str, set[str]]) -> None:
    for target in targets():
        names = named_labels(target["expr"].replace("$__rate_interval", "5m"))
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert legend <= set.union(OF_EVERY_TARGET, *(metrics[name] for name in names))


def test_panels_have_unique_ids_titles_and_places() -> None:
    panels = dashboard()["panels"]
    for name in ("id", "title"):
        values = [panel[name] for panel in panels]
        assert len(values) == len(set(values))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_panels_use_the_chosen_data_source() -> None:
    assert {target["datasource"]["uid"] for target in targets()} == {"${datasource}"}


def test_every_alert_says_what_it_means_and_where_to_read_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        page, _, heading = rule["annotations"]["runbook"].partition("#")
        assert heading == rule["alert"].lower()
        assert heading in anchors((ROOT / page).read_text("utf-8"))


def test_every_alert_of_the_documentation_exists() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text("utf-8")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_errors_of_clients_do_not_count_as_errors() -> None:
    codes = {str(code) for code, entry in REGISTRY.items() if entry.fault is Fault.CLIENT}
    found = re.findall(r'code!~"([^"]*)"', "".join([ALERTS.read_text("utf-8"), *queries()]))
    assert found
    assert [set(one.split("|")) for one in found] == [codes | {"ok"}] * len(found)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum by (model) (x) > on (backend) y", "does not keep"),
        ("sum (x) * on (job) y", "does not keep"),
        ("sum without (le) (x)", "use `by`"),
        ("x +", "invalid promql"),
    ],
)
def test_wrong_query_is_detected(query: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        named_labels(query)


def test_labels_of_a_query_are_found() -> None:
    query = 'sum by (job) (rate(x{a="b"}[5m])) / on (job) sum by (job, c) (y) > 1'
    assert named_labels(query) == {"x": {"a", "job"}, "y": {"job", "c"}}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", str(ALERTS)),
        ("test", "rules", str(Path(__file__).with_name("alerts.test.yaml"))),
    ],
    ids=["check", "test"],
)
def test_promtool_accepts_the_rules_and_their_tests(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
