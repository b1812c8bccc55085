"""The Helm chart, rendered by Helm itself, against the published schemas of Kubernetes."""

import json
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.config import load_config
from provider_agent.agent.config.schema import LimitsConfig
from provider_agent.agent.identity.key import load_or_create

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("no wheel of helm-python-sdk for this platform", allow_module_level=True)

import helm_python

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "provider-agent"
POD_MONITOR = json.loads((Path(__file__).parent / "podmonitor.schema.json").read_text("utf-8"))
OLDEST = "1.29.0"  # kubeVersion in Chart.yaml
NEWEST = kubernetes_validate.latest_version()

TOML = '[coordinator]\nurl = "wss://c.example/"\n[[backends]]\nkind = "vllm"\n'
URL = {"name": "PROVIDER_AGENT_COORDINATOR_URL", "value": "wss://c.example/"}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

CASES: dict[str, dict[str, Any]] = {
    "file": {"agentToml": TOML},
    "variables": {"env": [URL]},
    "vllm": {"env": [URL], "vllm": {"enabled": True, "model": "acme/acme-8b"}},
    "vllm, own settings": {
        "agentToml": TOML,
        "vllm": {
            "enabled": True,
            "model": "acme/acme-8b",
            "args": ["--max-model-len", "8192"],
            "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "h", "key": "t"}}}],
            "gpus": 2,
            "resources": {"limits": {"memory": "64Gi"}, "requests": {"cpu": "4"}},
            "cacheClaim": "weights",
        },
    },
    "own objects": {
        "existingConfigMap": "settings",
        "identity": {"existingSecret": "key"},
        "enrollment": {"existingSecret": "enrollment"},
        "secrets": {"existing": ["keys"], "files": "rotating"},
        "persistence": {"enabled": False},
        "image": {"repository": "registry.example/agent", "pullSecrets": [{"name": "pull"}]},
    },
    "created secrets": {
        "agentToml": TOML,
        "enrollment": {"code": "c0de: 1"},
        "secrets": {"create": {"VLLM_API_KEY": 'k"1'}},
        "persistence": {"storageClass": "fast", "size": "1Gi"},
    },
    "monitoring": {
        "agentToml": TOML,
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {
            "from": [PROMETHEUS],
            "egress": [{"ports": [{"port": 443}]}],
        },
        "podDisruptionBudget": {"enabled": True},
        "drainTimeoutSeconds": 900,
    },
    "placement": {
        "agentToml": TOML,
        "nodeSelector": {"gpu": "a100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "podLabels": {"team": "ml"},
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "networkPolicy": {"enabled": False},
    },
}

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no coordinator": ({}, "no coordinator: set agentToml"),
    "two replicas": ({"env": [URL], "replicas": 2}, "replicas"),
    "wrong type": ({"env": [URL], "statusPort": "8490"}, "statusPort"),
    "two files": ({"agentToml": TOML, "existingConfigMap": "x"}, "not both"),
    "two codes": ({"env": [URL], "enrollment": {"code": "c", "existingSecret": "x"}}, "not both"),
    "key is lost": ({"env": [URL], "persistence": {"enabled": False}}, "would be lost"),
    "no model": ({"env": [URL], "vllm": {"enabled": True}}, "set vllm.model"),
    "blocked": ({"env": [URL], "podMonitor": {"enabled": True}}, "set networkPolicy.from"),
    "set by the chart": (
        {"env": [URL, {"name": "PROVIDER_AGENT_LIMITS_DRAIN_TIMEOUT_S", "value": "9"}]},
        "see drainTimeoutSeconds",
    ),
}


def render(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Render the chart as the release `demo`; return its objects by kind."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="prod")
    manifests = [text for name, text in texts.items() if name.endswith(".yaml")]
    objects = [one for text in manifests for one in yaml.safe_load_all(text) if one]
    assert len({one["kind"] for one in objects}) == len(objects)
    return {one["kind"]: one for one in objects}


def pod(values: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = render(values)["Deployment"]["spec"]["template"]["spec"]
    return spec


def validate(manifest: dict[str, Any], version: str) -> None:
    """Validate one object against the published schema; unknown fields are errors.

    Raises:
        jsonschema.ValidationError: it does not satisfy the schema.
    """
    if manifest["kind"] == "PodMonitor":
        jsonschema.validate(manifest, POD_MONITOR)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.fixture(params=CASES, scope="module")
def objects(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    return render(CASES[request.param])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_satisfies_the_published_schema(
    objects: dict[str, dict[str, Any]], version: str
) -> None:
    for manifest in objects.values():
        validate(manifest, version)


def test_the_cases_render_every_template() -> None:
    rendered = {kind for values in CASES.values() for kind in render(values)}

    text = "".join(path.read_text("utf-8") for path in (CHART / "templates").glob("*.yaml"))
    assert rendered == set(re.findall(r"(?m)^kind: (\w+)$", text))


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "PodMonitor"])
def test_the_schemas_reject_an_unknown_field(kind: str) -> None:
    manifest = render(CASES["monitoring"])[kind]
    manifest["spec"]["selectr"] = {}

    with pytest.raises(jsonschema.ValidationError):
        validate(manifest, NEWEST)


def test_helm_lint_is_satisfied() -> None:
    report = helm_python.lint(CHART, CASES["file"], strict=True)

    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_values_are_refused_with_a_message(name: str) -> None:
    values, message = MISTAKES[name]

    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        render(values)


def test_one_release_runs_one_agent(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["Deployment"]["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_grace_period_covers_the_drain(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["Deployment"]["spec"]["template"]["spec"]

    drain = variables(spec)["PROVIDER_AGENT_LIMITS_DRAIN_TIMEOUT_S"]
    assert spec["terminationGracePeriodSeconds"] == int(drain) + 30


def test_the_default_drain_is_that_of_the_agent() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    assert values["drainTimeoutSeconds"] == LimitsConfig().drain_timeout_s


def variables(spec: dict[str, Any]) -> dict[str, str]:
    (agent,) = spec["containers"]
    return {one["name"]: one.get("value", "from a secret") for one in agent["env"]}


@pytest.mark.parametrize("name", [name for name in CASES if name != "own objects"])
def test_the_agent_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    """A variable that the chart sets must exist and have a valid value."""
    rendered = render(CASES[name])
    environ = variables(rendered["Deployment"]["spec"]["template"]["spec"])
    config = tmp_path / "agent.toml"
    config.write_text(rendered.get("ConfigMap", {"data": {"agent.toml": ""}})["data"]["agent.toml"])

    loaded = load_config(config, environ, {}, BUILT_IN_KINDS)

    assert loaded.config.coordinator.url == "wss://c.example/"
    assert loaded.config.observability.prometheus_addr == "0.0.0.0:8490"
    # Those that the variables set, without one that the agent does not know.
    used = {origin.removeprefix("environment ") for origin in loaded.origins.values()}
    assert set(environ) <= used


def test_every_mount_has_a_volume_and_every_volume_a_mount(
    objects: dict[str, dict[str, Any]],
) -> None:
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    containers = [*spec["containers"], *spec.get("initContainers", ())]

    mounts = {mount["name"] for one in containers for mount in one["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}


def test_the_agent_has_the_fewest_privileges(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (user,) = re.findall(r"(?m)^USER (\d+):", (ROOT / "Dockerfile").read_text("utf-8"))

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "capabilities": {"drop": ["ALL"]},
    }


def test_vllm_starts_before_the_agent_and_stops_after_it() -> None:
    """As a second container, vLLM would stop while the agent's jobs still run."""
    spec = pod(CASES["vllm"])
    (vllm,) = spec["initContainers"]

    assert vllm["restartPolicy"] == "Always"
    assert vllm["startupProbe"]["failureThreshold"] == 360
    assert vllm["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert variables(spec)["PROVIDER_AGENT_BACKENDS"] == (
        '[{"kind": "vllm", "url": "http://127.0.0.1:8000"}]'
    )


def test_resources_of_vllm_are_added_to_its_gpus() -> None:
    (vllm,) = pod(CASES["vllm, own settings"])["initContainers"]

    assert vllm["resources"] == {
        "limits": {"nvidia.com/gpu": "2", "memory": "64Gi"},
        "requests": {"cpu": "4"},
    }


def test_a_key_from_a_secret_is_copied_with_mode_0600() -> None:
    spec = pod(CASES["own objects"])
    (copy,) = spec["initContainers"]

    assert copy["command"][:2] == ["install", "--mode=0600"]
    assert copy["command"][-1] == variables(spec)["PROVIDER_AGENT_IDENTITY_KEY_PATH"]


def test_secrets_are_not_in_the_configmap_and_survive_quoting() -> None:
    rendered = render(CASES["created secrets"])

    assert rendered["Secret"]["stringData"] == {
        "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE": "c0de: 1",
        "VLLM_API_KEY": 'k"1',
    }
    assert tomllib.loads(rendered["ConfigMap"]["data"]["agent.toml"]) == tomllib.loads(TOML)


def test_a_changed_configuration_restarts_the_agent() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = render(values)["Deployment"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({"agentToml": TOML}) == checksum({"agentToml": TOML, "statusPort": 8500})
    assert checksum({"agentToml": TOML}) != checksum({"agentToml": TOML + "\n[limits]\n"})


def test_no_connection_to_the_pod_is_admitted_by_default() -> None:
    policy = render(CASES["file"])["NetworkPolicy"]["spec"]

    assert policy["ingress"] == []
    assert policy["policyTypes"] == ["Ingress"]


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_readme_lists_every_value_with_its_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    leaves = dict(flat(values))
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| (.+?) \|", (CHART / "README.md").read_text("utf-8"))

    assert [key for key, _ in rows] == list(leaves)
    for key, default in rows:
        assert default in (f"`{json.dumps(leaves[key])}`", "see `values.yaml`")


def test_the_examples_of_the_documentation_use_values_of_the_chart() -> None:
    readme = (CHART / "README.md").read_text("utf-8")
    (example,) = re.findall(r"(?s)```yaml\n(.*?)```", readme)
    assert "vllm" in str(pod(yaml.safe_load(example))["initContainers"])

    leaves = {key for key, _ in flat(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))}
    pages = sorted((ROOT / "docs" / "operations").glob("*.md"))
    documentation = readme + "".join(page.read_text("utf-8") for page in pages)
    used = set(re.findall(r"--set(?:-file)? ([\w.]+)=", documentation))
    assert used == {"agentToml", "image.repository", "image.tag", "enrollment.existingSecret"}
    assert used <= leaves


def test_the_init_container_copies_the_key_for_its_owner_only(tmp_path: Path) -> None:
    """The command of the init container, run with the paths of this machine."""
    (tmp_path / "secret").mkdir()
    identity = load_or_create(tmp_path / "secret" / "identity.key")
    (tmp_path / "secret" / "identity.key").chmod(0o440)
    (tmp_path / "run").mkdir()
    (copy,) = pod(CASES["own objects"])["initContainers"]
    paths = {"/run/secrets/identity": tmp_path / "secret", "/run/provider-agent": tmp_path / "run"}
    assert {mount["mountPath"] for mount in copy["volumeMounts"]} == set(paths)
    command = [
        re.sub("|".join(paths), lambda match: str(paths[match[0]]), part)
        for part in copy["command"]
    ]

    subprocess.run(command, check=True)

    copied = tmp_path / "run" / "identity.key"
    assert copied.stat().st_mode & 0o777 == 0o600
    assert load_or_create(copied).fingerprint == identity.fingerprint


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the dotted key and default of each value; resources and contexts are one value."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("resources", "securityContext"):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
