"""The Helm chart of the coordinators, rendered by Helm itself, against Kubernetes' schemas."""

import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from provider_agent.coordinator.cluster.settings import DEFAULT_PREFIX
from provider_agent.coordinator.command import command
from tests.kit.nats_server import BINARY

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("no wheel of helm-python-sdk for this platform", allow_module_level=True)

import helm_python

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "coordinator"
VERSIONS = ["1.29.0", kubernetes_validate.latest_version()]  # from kubeVersion in Chart.yaml
Objects = dict[str, dict[str, Any]]

MINIMUM: dict[str, Any] = {
    "existingSecret": "coordinator",
    "authorities": ["ai.example", "10.0.0.5:8700"],
    "cluster": {"existingSecret": "coordinator"},
}
INGRESS = {"enabled": True, "host": "ai.example", "tlsSecret": "tls", "className": "nginx"}

CASES: dict[str, dict[str, Any]] = {
    "minimum": MINIMUM,
    "one coordinator": {"existingSecret": "x", "authorities": ["ai.example"], "replicas": 1},
    "ingress": {
        "existingSecret": "coordinator",
        "ingress": {
            **INGRESS,
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "16m"},
        },
        "trustedProxies": ["10.1.0.0/16"],
        "cluster": {
            "urls": ["tls://nats-0:4222", "tls://nats-1:4222"],
            "prefix": "team",
            "credentialsSecret": "creds",
            "caSecret": "ca",
            "certificateSecret": "certificate",
        },
    },
    "everything else": {
        **MINIMUM,
        "image": {"repository": "registry.example/x", "tag": "1", "pullSecrets": [{"name": "p"}]},
        "extraArgs": ["--max-price=20"],
        "drainTimeoutSeconds": 60,
        "preStopSeconds": 0,
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
        "podLabels": {"team": "ml"},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "x", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "networkPolicy": {
            "from": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
            "egress": [{"ports": [{"port": 4222}]}],
        },
    },
    "without policies": {
        **MINIMUM,
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
}

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({**MINIMUM, "existingSecret": ""}, "set existingSecret"),
    "no authority": ({**MINIMUM, "authorities": []}, "set authorities"),
    "no host": ({**MINIMUM, "ingress": {"enabled": True}}, "set ingress.host"),
    "no NATS": ({**MINIMUM, "cluster": {}}, "several coordinators need NATS"),
    "two URLs": (
        {**MINIMUM, "cluster": {"urls": ["nats://a"], "existingSecret": "x"}},
        "not both",
    ),
    "password": ({**MINIMUM, "cluster": {"urls": ["nats://a:b@c"]}}, "use cluster.existingSecret"),
    "credentials without NATS": (
        {**MINIMUM, "replicas": 1, "cluster": {"credentialsSecret": "x"}},
        "need cluster.urls or",
    ),
    "option of the chart": (
        {**MINIMUM, "extraArgs": ["--drain-timeout=9"]},
        "the chart sets --drain-timeout",
    ),
    "wrong type": ({**MINIMUM, "replicas": "3"}, "replicas"),
    "unknown key": ({**MINIMUM, "replica": 3}, "replica"),
}


def render(values: dict[str, Any]) -> Objects:
    """Render the chart as the release `demo`; return its objects by kind and name."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="prod")
    manifests = [text for name, text in texts.items() if name.endswith(".yaml")]
    objects = [one for text in manifests for one in yaml.safe_load_all(text) if one]
    return {f"{one['kind']} {one['metadata']['name']}": one for one in objects}


def pod(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment demo-coordinator"]["spec"]["template"]["spec"]
    return spec


def container(objects: Objects) -> dict[str, Any]:
    (found,) = pod(objects)["containers"]
    return dict(found)


@pytest.fixture(params=CASES, scope="module")
def objects(request: pytest.FixtureRequest) -> Objects:
    return render(CASES[request.param])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_satisfies_the_published_schema(objects: Objects, version: str) -> None:
    for manifest in objects.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_cases_render_every_template() -> None:
    rendered = {one["kind"] for values in CASES.values() for one in render(values).values()}

    text = "".join(path.read_text("utf-8") for path in (CHART / "templates").glob("*.yaml"))
    assert rendered == set(re.findall(r"(?m)^kind: (\w+)$", text))


@pytest.mark.parametrize("name", ["Deployment", "NetworkPolicy", "Ingress", "Service"])
def test_the_schemas_reject_an_unknown_field(name: str) -> None:
    manifest = render(CASES["ingress"])[f"{name} demo-coordinator"]
    manifest["spec"]["selectr"] = {}

    with pytest.raises(jsonschema.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_helm_lint_is_satisfied() -> None:
    report = helm_python.lint(CHART, CASES["ingress"], strict=True)

    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_values_are_refused_with_a_message(name: str) -> None:
    values, message = MISTAKES[name]

    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        render(values)


def options(objects: Objects) -> dict[str, Any]:
    """Parse the container's arguments as the command does; the files need not exist."""
    first, *arguments = container(objects)["args"]
    assert first == "coordinator"
    with click.Context(command) as context:
        command.parse_args(context, arguments)
        return context.params


def test_the_coordinator_accepts_its_options(objects: Objects) -> None:
    parsed = options(objects)

    assert (parsed["host"], parsed["port"]) == ("0.0.0.0", 8700)
    assert "ai.example" in parsed["authorities"]
    mounts = {mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    files = [name for name in parsed if name.endswith(("_keys", "_codes"))]
    files += ["cluster_credentials", "cluster_ca", "cluster_cert", "cluster_key"]
    assert {str(parsed[name].parent) for name in files if parsed[name]} == mounts


def test_nats_is_named_by_options_or_by_a_secret() -> None:
    by_options = options(render(CASES["ingress"]))
    (variable,) = container(render(MINIMUM))["env"]

    assert by_options["cluster"] == ("tls://nats-0:4222", "tls://nats-1:4222")
    assert by_options["cluster_prefix"] == "team"
    assert by_options["trusted_proxies"] == ("10.1.0.0/16",)
    assert options(render(MINIMUM))["cluster_prefix"] == DEFAULT_PREFIX
    assert variable["name"] == "COORDINATOR_CLUSTER"
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "coordinator", "key": "cluster-url"}


def test_the_grace_period_covers_the_drain(objects: Objects) -> None:
    sleep = container(objects).get("lifecycle", {"preStop": {"exec": {"command": ["sleep", "0"]}}})
    before = int(sleep["preStop"]["exec"]["command"][1])

    expected = before + options(objects)["drain_timeout"] + 30
    assert pod(objects)["terminationGracePeriodSeconds"] == expected


def test_an_update_never_stops_a_coordinator_before_the_next_one_is_ready() -> None:
    objects = render(MINIMUM)
    spec = objects["Deployment demo-coordinator"]["spec"]

    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert objects["PodDisruptionBudget demo-coordinator"]["spec"]["maxUnavailable"] == 1


def test_clients_reach_ready_coordinators_and_agents_all_of_them() -> None:
    """With one Service, no agent could connect: without an agent no coordinator is ready."""
    objects = render(CASES["ingress"])
    (rule,) = objects["Ingress demo-coordinator"]["spec"]["rules"]
    services = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}

    assert container(objects)["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container(objects)["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert services["/provider/connect"] == "demo-coordinator-agents"
    assert services["/v1"] == "demo-coordinator"
    assert "/metrics" not in services
    unready = {
        name: objects[f"Service {name}"]["spec"].get("publishNotReadyAddresses", False)
        for name in services.values()
    }
    assert unready == {"demo-coordinator-agents": True, "demo-coordinator": False}


def test_the_coordinator_has_the_fewest_privileges(objects: Objects) -> None:
    (user,) = re.findall(r"(?m)^USER (\d+):", (ROOT / "Dockerfile").read_text("utf-8"))

    assert pod(objects)["automountServiceAccountToken"] is False
    assert pod(objects)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(objects)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_mount_has_a_volume_and_every_volume_a_mount(objects: Objects) -> None:
    mounts = {mount["name"] for mount in container(objects)["volumeMounts"]}

    assert mounts == {volume["name"] for volume in pod(objects)["volumes"]}


def test_the_policy_admits_only_the_port_of_the_coordinator() -> None:
    policy = render(MINIMUM)["NetworkPolicy demo-coordinator"]["spec"]

    assert policy["ingress"] == [{"ports": [{"port": "http"}]}]
    assert policy["policyTypes"] == ["Ingress"]


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert chart["version"] == chart["appVersion"] == project["version"]


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the dotted key and default of each value; resources are one value."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "resources":
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def test_the_readme_lists_every_value_with_its_default() -> None:
    leaves = dict(flat(yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))))
    readme = (CHART / "README.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| (.+?) \|", readme)

    assert [key for key, _ in rows] == list(leaves)
    for key, default in rows:
        assert default in (f"`{json.dumps(leaves[key])}`", "see `values.yaml`")
    assert set(re.findall(r"--set ([\w.]+)=", readme)) <= set(leaves)


def test_nats_accepts_the_authorization_of_the_example_values(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values-nats.example.yaml").read_text("utf-8"))
    merged = values["config"]["merge"]
    (user,) = merged["authorization"]["users"]
    assert set(user["permissions"].values()) == {f"{DEFAULT_PREFIX}.1.>"}

    # The chart of NATS writes JSON, and `<< … >>` without quotes.
    text = re.sub(r'"<< (.*?) >>"', r"\1", json.dumps(merged))
    config = tmp_path / "nats.conf"
    config.write_text(text, "utf-8")
    (variable,) = values["container"]["env"]
    for environ, code in (({variable: "n12e3"}, 0), ({}, 1)):
        environment = {**os.environ, **environ}
        ran = subprocess.run([BINARY, "-t", "-c", config], env=environment, capture_output=True)
        assert ran.returncode == code, ran.stderr
