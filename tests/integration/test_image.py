"""The Dockerfile's steps run without an engine, then commands with the image's environment."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml

from tests.kit.nats_server import nats_server
from tests.kit.plain_image import PlainImage, StepError, build_plain_image
from tests.kit.wrong_servers import closed_port

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # pip installs and mypyc compiles, on a busy machine

IMPORT_ALL = """
import importlib, pkgutil, provider_agent
for module in pkgutil.walk_packages(provider_agent.__path__, "provider_agent."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
    print(module.name)
"""


VARIABLES = {
    "PROVIDER_AGENT_COORDINATOR_URL": "ws://127.0.0.1:9/",
    "PROVIDER_AGENT_BACKENDS": '[{"kind": "echo"}]',
}
"""All that the agent needs."""


@pytest.fixture(scope="module")
def image() -> Iterator[PlainImage]:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which the image's build stage installs")
    # Not `tmp_path`, whose parents only its owner may enter: the image's user is another one.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield build_plain_image(ROOT, Path(folder))


def other_user(image: PlainImage) -> int | None:
    """Return the image's user if this test can become it, and it can reach Python."""
    base = Path(sys.base_prefix)
    reachable = all(folder.stat().st_mode & 0o001 for folder in (base, *base.parents))
    return image.user if os.geteuid() == 0 and reachable else None


def start(image: PlainImage, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the image's entry point as an engine does, without the variables of this machine."""
    user = other_user(image)
    return subprocess.Popen(
        [*image.entrypoint, *arguments],
        executable=shutil.which(image.entrypoint[0], path=image.environment["PATH"]),
        env={**image.environment, "HOME": "/", **variables},
        cwd=image.folder(""),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(image: PlainImage, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    with start(image, *arguments, **variables) as process:
        output, errors = process.communicate()
    return process.returncode, output, errors


def wait_until_listening(agent: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """Return the events of the log until the status server listens."""
    assert agent.stderr
    events: list[dict[str, Any]] = []
    for line in agent.stderr:
        events.append(json.loads(line))
        if events[-1]["event"] == "status server listening":
            return events
    raise AssertionError(f"exited before its status server listened: {events}")


@pytest.mark.parametrize("command", ["identity", "version", "config example"])
def test_commands_need_no_configuration_file(image: PlainImage, command: str) -> None:
    """`identity` exited with 2: the image named a configuration file that need not exist."""
    code, output, errors = run(image, *command.split())

    assert (code, errors) == (0, "")
    assert output


def test_the_agent_of_the_image_is_compiled(image: PlainImage) -> None:
    assert "\ncompiled       yes\n" in run(image, "version")[1]


def test_the_key_is_created_in_the_volume(image: PlainImage) -> None:
    run(image, "identity")

    key = image.folder("/var/lib/provider-agent") / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_every_user_can_read_what_the_image_installs(image: PlainImage) -> None:
    installed = list(image.folder("/opt/provider-agent").rglob("*"))

    assert len(installed) > 1000
    assert [path for path in installed if not path.stat().st_mode & 0o004] == []


def test_the_image_contains_the_example_file(image: PlainImage) -> None:
    example = (ROOT / "agent.example.toml").read_text("utf-8")

    assert (image.folder("/etc/provider-agent") / "agent.example.toml").read_text(
        "utf-8"
    ) == example
    assert run(image, "config", "example")[1] == example


def test_a_named_file_that_is_missing_is_an_error(image: PlainImage) -> None:
    code, _, errors = run(image, "identity", PROVIDER_AGENT_CONFIG="/etc/provider-agent/none.toml")

    assert code == 2
    assert "none.toml: no such file" in errors


def test_run_without_any_setting_says_what_to_set(image: PlainImage) -> None:
    code, _, errors = run(image, *image.command)

    assert code == 2
    assert "PROVIDER_AGENT_COORDINATOR_URL" in errors


def test_the_agent_runs_on_variables_alone_and_is_healthy(image: PlainImage) -> None:
    entrypoint, *health = image.health_check
    assert [entrypoint] == image.entrypoint
    assert run(image, *health, **VARIABLES)[0] == 1

    with start(image, *image.command, **VARIABLES) as agent:
        events = wait_until_listening(agent)
        healthy = run(image, *health, **VARIABLES)
        agent.send_signal(signal.SIGTERM)
        agent.communicate()

    assert healthy[0] == 0, healthy
    assert [event["config"] for event in events if event["event"] == "starting"] == [None]
    assert agent.returncode == 0


def test_the_probes_of_the_helm_chart_reach_the_agent(image: PlainImage) -> None:
    helm = pytest.importorskip(
        "helm_python", reason="no wheel of helm-python-sdk for this platform"
    )
    port = closed_port()
    values = {"statusPort": port, "env": [{"name": n, "value": v} for n, v in VARIABLES.items()]}
    with helm.Chart.load(ROOT / "deploy" / "helm" / "provider-agent") as chart:
        manifests = chart.render(values, name="demo")
    deployment = yaml.safe_load(manifests["provider-agent/templates/deployment.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}

    def probe(name: str) -> tuple[int, str]:
        path = container[name]["httpGet"]["path"]
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    with start(image, *image.command, **variables) as agent:
        wait_until_listening(agent)
        live, ready = probe("livenessProbe"), probe("readinessProbe")
        agent.send_signal(signal.SIGTERM)
        agent.communicate()

    assert live[0] == 200, live
    assert ready[0] == 503, ready  # there is no coordinator


def test_the_image_contains_every_module_and_imports_it(image: PlainImage) -> None:
    python = image.folder("/opt/provider-agent/bin/python")
    imported = subprocess.run([python, "-I", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert imported.returncode == 0, imported.stderr

    package = ROOT / "src" / "provider_agent"
    folders = [path for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"]
    files = [*package.glob("*.py"), *(file for one in folders for file in one.rglob("*.py"))]
    names = {str(file.relative_to(package).with_suffix("")).replace("/", ".") for file in files}
    expected = {f"provider_agent.{name.removesuffix('.__init__')}" for name in names}
    assert expected - {"provider_agent.__init__"} <= set(imported.stdout.split())


async def test_the_coordinator_of_the_image_joins_a_cluster(image: PlainImage) -> None:
    """The image had no client of NATS, so `--cluster` failed there."""
    arguments = ("coordinator", "--port", "0", "--host", "127.0.0.1")
    async with nats_server("--user", "coordinators", "--pass", "secret") as nats:
        url = nats.url.replace("//", "//coordinators:secret@")
        with start(image, *arguments, COORDINATOR_CLUSTER=url) as coordinator:
            try:
                connected = await asyncio.to_thread(line_with, coordinator, "cluster connected")
            finally:
                coordinator.send_signal(signal.SIGTERM)
            await asyncio.to_thread(coordinator.communicate)

    assert "INFO cluster connected" in connected
    assert coordinator.returncode == 0


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    """Return the first line of the log with `text`; all lines if the process ends without it."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return line
    return "".join(lines)


def test_the_image_can_read_credentials_of_nats_and_has_no_build_tools(image: PlainImage) -> None:
    python = image.folder("/opt/provider-agent/bin/python")
    found = (
        "import nkeys, importlib.util as u; print(u.find_spec('pip'), u.find_spec('setuptools'))"
    )
    ran = subprocess.run([python, "-I", "-c", found], capture_output=True, text=True)

    assert (ran.stdout, ran.stderr) == ("None None\n", "")


def test_a_copy_of_a_missing_file_fails(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch AS one\nCOPY a.txt b.txt ./\n", "utf-8")
    (tmp_path / ".dockerignore").write_text("*\n!a.txt\n", "utf-8")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()

    with pytest.raises(StepError, match=r"b\.txt is missing in context"):
        build_plain_image(tmp_path, tmp_path / "out")
