"""The Compose file of a cluster: the published schema, and what the schema cannot express.

tests/integration/test_cluster_deployment.py runs its load balancer, NATS and coordinators.
"""

import re
from typing import Any

import pytest
import yaml

from provider_agent.coordinator.cluster.settings import DEFAULT_PREFIX
from provider_agent.coordinator.command import command
from provider_agent.coordinator.variables import check_variables
from tests.unit.deploy.test_compose import ROOT, validate

FILE = ROOT / "deploy" / "compose.cluster.yaml"
HAPROXY = (ROOT / "deploy" / "cluster" / "haproxy.cfg").read_text("utf-8")
COORDINATORS = ["coordinator-1", "coordinator-2", "coordinator-3"]


@pytest.fixture
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
    return loaded


def test_the_file_satisfies_the_published_schema() -> None:
    ran = validate(FILE)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_three_coordinators_with_the_same_settings(services: dict[str, Any]) -> None:
    assert sorted(services) == ["balancer", *COORDINATORS, "nats"]
    assert services["coordinator-1"] == services["coordinator-2"] == services["coordinator-3"]


def test_every_service_restarts_is_checked_and_has_the_fewest_privileges(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True


def test_the_images_of_others_have_a_version(services: dict[str, Any]) -> None:
    for name in ("nats", "balancer"):
        assert re.search(r":\d+\.\d+", services[name]["image"])


def test_only_the_load_balancer_can_be_reached(services: dict[str, Any]) -> None:
    networks = yaml.safe_load(FILE.read_text("utf-8"))["networks"]

    assert networks["cluster"]["internal"] is True
    assert [name for name in services if "ports" in services[name]] == ["balancer"]
    assert {str(services[name]["networks"]) for name in (*COORDINATORS, "nats")} == {"['cluster']"}


def seconds(pattern: str, text: str) -> int:
    (found,) = re.findall(pattern, text)
    return int(found)


def test_the_grace_periods_cover_the_drain(services: dict[str, Any]) -> None:
    coordinator = services["coordinator-1"]
    drain = seconds(r"--drain-timeout=(\d+)", " ".join(coordinator["command"]))
    grace = seconds(r"^(\d+)s$", coordinator["stop_grace_period"])
    hard_stop = seconds(r"hard-stop-after (\d+)s", HAPROXY)

    assert drain + 10 < grace <= hard_stop
    assert hard_stop < seconds(r"^(\d+)s$", services["balancer"]["stop_grace_period"])


def test_coordinators_stop_before_nats_and_the_load_balancer_with_them(
    services: dict[str, Any],
) -> None:
    """The agents' connections would keep a load balancer that stops before the coordinators."""
    assert services["coordinator-1"]["depends_on"] == {"nats": {"condition": "service_healthy"}}
    assert "depends_on" not in services["balancer"]


def test_the_coordinator_accepts_its_options_and_variables(services: dict[str, Any]) -> None:
    _, *arguments = services["coordinator-1"]["command"]
    options = {option.partition("=")[0] for option in arguments}

    assert options <= {name for parameter in command.params for name in parameter.opts}
    check_variables(services["coordinator-1"]["environment"], ())


def test_the_load_balancer_knows_every_coordinator(services: dict[str, Any]) -> None:
    servers = re.findall(r"(?m)^    server (\S+) (\S+):8700$", HAPROXY)

    assert servers == [(name, name) for name in COORDINATORS] * 2


def test_nats_restricts_the_subjects_of_the_cluster() -> None:
    text = (ROOT / "deploy" / "cluster" / "nats.conf").read_text("utf-8")

    assert text.count(f'"{DEFAULT_PREFIX}.1.>"') == 2


def test_secrets_are_not_committed() -> None:
    assert "/deploy/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_the_comment_names_every_required_variable() -> None:
    text = FILE.read_text("utf-8")
    comment = "".join(re.findall(r"(?m)^#.*\n", text))

    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert [name for name in required if name not in comment] == []
