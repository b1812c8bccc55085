"""The Compose file: the published schema, and what the schema cannot express."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.config.schema import LimitsConfig

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deploy" / "compose.yaml"
VALIDATOR = Path(sys.executable).with_name("check-jsonschema")


def validate(path: Path) -> "subprocess.CompletedProcess[str]":
    """Validate against the schema of the Compose Specification that check-jsonschema ships."""
    command = [str(VALIDATOR), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def profiles(service: dict[str, Any]) -> set[str]:
    return set(service.get("profiles", ()))


@pytest.fixture
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    return loaded


def test_the_file_satisfies_the_published_schema() -> None:
    ran = validate(FILE)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_schema_rejects_an_unknown_key(tmp_path: Path) -> None:
    text = FILE.read_text("utf-8").replace("create_host_path", "create_host_pth")
    (tmp_path / "compose.yaml").write_text(text, "utf-8")

    assert validate(tmp_path / "compose.yaml").returncode == 1


def test_a_missing_configuration_is_an_error_and_not_a_directory(services: dict[str, Any]) -> None:
    (mount,) = [one for one in services["agent"]["volumes"] if isinstance(one, dict)]

    assert mount["type"] == "bind"
    assert mount["target"] == "/etc/provider-agent/agent.toml"
    assert mount["bind"] == {"create_host_path": False}


def test_the_agent_starts_without_a_profile(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if not profiles(service)] == ["agent"]


def test_a_service_requires_only_services_of_its_own_profiles(services: dict[str, Any]) -> None:
    # Otherwise, Compose refuses to start it: "depends on undefined service".
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            needed = dependency.get("required", True)
            assert not needed or profiles(service) <= profiles(services[name]) != set()


def test_the_agent_waits_for_the_model(services: dict[str, Any]) -> None:
    waits = services["agent"]["depends_on"]

    assert waits["ollama-pull"]["condition"] == "service_completed_successfully"
    assert waits["vllm"]["condition"] == "service_healthy"
    assert services["ollama-pull"]["depends_on"]["ollama"]["condition"] == "service_healthy"
    assert services["ollama-pull"]["restart"].startswith("on-failure")


def test_a_service_that_must_be_healthy_has_a_health_check(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_vllm_reserves_the_gpus(services: dict[str, Any]) -> None:
    (device,) = services["vllm"]["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_grace_period_covers_the_drain(services: dict[str, Any]) -> None:
    assert services["agent"]["stop_grace_period"] == f"{LimitsConfig().drain_timeout_s + 30:.0f}s"


def test_the_backends_of_the_comment_are_services(services: dict[str, Any]) -> None:
    lines = re.findall(r"(?m)^#   (\[\[.*|\w+ = .*)$", FILE.read_text("utf-8"))

    backends = tomllib.loads("\n".join(lines))["backends"]
    assert [backend["kind"] for backend in backends] == ["ollama", "vllm"]
    for backend in backends:
        assert backend["kind"] in BUILT_IN_KINDS
        assert backend["url"].partition("://")[2].partition(":")[0] in services
