"""`provider-agent service` with real systemd, in a machine of namespaces."""

import json
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.systemd_machine import LIFETIME_S, SystemdMachine, missing, systemd_machine

pytestmark = pytest.mark.timeout(LIFETIME_S)

CONFIG = """\
[coordinator]
url = "ws://127.0.0.1:8700/provider/connect"
[[backends]]
kind = "echo"
"""

PRIVATE_USERS = """\
[Service]
Type=oneshot
DynamicUser=yes
PrivateUsers=yes
ExecStart=true
"""

USER_MANAGER = """\
[Service]
Type=notify
ExecStart=/lib/systemd/systemd --user
Environment=HOME=/operator XDG_RUNTIME_DIR=/run/user/0
RuntimeDirectory=user/0
Delegate=yes
"""

REQUEST = """\
import json, urllib.request
body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
url = "http://127.0.0.1:8700/v1/chat/completions"
headers = {"Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request).read().decode())
"""

SESSION = {"XDG_RUNTIME_DIR": "/run/user/0"}

DYNAMIC_USERS = range(61184, 65520)  # systemd.exec(5)


@pytest.fixture
def machine() -> Iterator[SystemdMachine]:
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, systemd_machine(Path(folder)) as running:
        yield running


@contextmanager
def coordinator(machine: SystemdMachine) -> Iterator[None]:
    with machine.start("provider-agent", "coordinator", env={"PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "8700" in line:
                break
        try:
            yield
        finally:
            process.kill()


def write(machine: SystemdMachine, path: str, text: str) -> None:
    file = machine.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def properties(machine: SystemdMachine, *options: str) -> dict[str, str]:
    """Return the properties of the service."""
    shown = machine.run("systemctl", *options, "show", "provider-agent", env=SESSION)
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def wait_until_connected(
    machine: SystemdMachine, *options: str, restarts: int = 0
) -> dict[str, str]:
    """Wait until systemd says that the service has been restarted and is connected."""
    found: dict[str, str] = {}
    while (found.get("NRestarts"), found.get("StatusText", "").partition(",")[0]) != (
        str(restarts),
        "link connected",
    ):
        found = properties(machine, *options)
        assert found["ActiveState"] in ("active", "activating"), found
    return found


def wait_for_log(machine: SystemdMachine, pattern: str, *options: str) -> str:
    """Wait until the log matches; the journal may have a line later than systemd the state."""
    log = ""
    while not re.search(pattern, log):
        log = machine.run("provider-agent", "service", "logs", *options)
    return log


def test_system_service(machine: SystemdMachine) -> None:
    write(machine, "etc/provider-agent/agent.toml", CONFIG)
    write(machine, "etc/systemd/system/private-users.service", PRIVATE_USERS)
    changes = "[Service]\nRestartSec=0\n"
    if "failed" in machine.run("sh", "-c", "systemctl start private-users || echo failed"):
        changes += "PrivateUsers=no\n"  # nested user namespaces are not possible here
    write(machine, "etc/systemd/system/provider-agent.service.d/test.conf", changes)
    machine.run("provider-agent", "identity")  # the operator's own key is not that of the service

    with coordinator(machine):
        installed = machine.run("provider-agent", "service", "install", "--new-key")
        assert "wrote /etc/systemd/system/provider-agent.service\n" in installed
        state = wait_until_connected(machine)
        assert "active (running)" in machine.run("provider-agent", "service", "status")
        answer = machine.run("/opt/provider-agent/bin/python", "-c", REQUEST)
        assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello"

        key = (machine.root / "var/lib/private/provider-agent/identity.key").stat()
        assert stat.S_IMODE(key.st_mode) == 0o600
        assert key.st_uid in DYNAMIC_USERS
        assert key.st_uid == (machine.root / "proc" / state["MainPID"]).stat().st_uid

        commands_find_the_agent(machine)

        machine.run("kill", "-9", properties(machine)["MainPID"])
        assert wait_until_connected(machine, restarts=1)["MainPID"] != state["MainPID"]
        log = wait_for_log(machine, r"(?s)( starting .* identity=[0-9a-f]{16} .*){2}")
        assert log.count(" new identity created ") == 1

        machine.run("provider-agent", "service", "restart")
        wait_until_connected(machine)
        machine.run("provider-agent", "service", "stop")
        stopped = properties(machine)
        assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")
        assert stopped["ExecMainStatus"] == "0"
        wait_for_log(machine, " stopped exit_code=0", "--lines", "30")
        machine.run("provider-agent", "service", "status", code=1)

    removed = machine.run("provider-agent", "service", "uninstall")
    assert "kept the identity key /var/lib/provider-agent/identity.key" in removed
    assert not (machine.root / "etc/systemd/system/provider-agent.service").exists()
    assert (machine.root / "var/lib/private/provider-agent/identity.key").exists()
    assert (machine.root / "etc/provider-agent/agent.toml").read_text() == CONFIG


def commands_find_the_agent(machine: SystemdMachine) -> None:
    # Regression: "no agent responds on 127.0.0.1:8490-8499", because root has another key.
    note = "no agent runs with the key /operator/.config/provider-agent/identity.key ("
    for command in (("status",), ("health", "--ready")):
        shown = machine.run("provider-agent", *command)
        assert shown.startswith(note)
        assert re.search(r"; this is the agent [0-9a-f]{16} on 127\.0\.0\.1:8490\n", shown)

    nobody = ("setpriv", "--reuid=65534", "--clear-groups", "provider-agent")
    refused = machine.run(*nobody, "pause", code=2, env={"HOME": "/nonexistent"})
    assert "sudo /opt/provider-agent/bin/provider-agent pause" in refused
    paused = machine.run("provider-agent", "pause")
    assert paused.startswith("this is the service's agent ")
    assert "\nthe agent is paused until `resume`" in paused
    assert "not serving: paused" in machine.run("provider-agent", "health", "--ready", code=1)
    machine.run("provider-agent", "resume")
    wait_until_connected(machine)


def test_service_of_a_user(machine: SystemdMachine) -> None:
    write(machine, "etc/systemd/system/user-manager.service", USER_MANAGER)
    write(machine, "operator/.config/provider-agent/agent.toml", CONFIG)
    machine.run("systemctl", "start", "user-manager")

    def service(*arguments: str, code: int = 0) -> str:
        command = ("provider-agent", "service", *arguments, "--user")
        return machine.run(*command, code=code, env=SESSION)

    with coordinator(machine):
        installed = service("install")
        unit = "operator/.config/systemd/user/provider-agent.service"
        assert f"wrote /{unit}\n" in installed
        wait_until_connected(machine, "--user")
        status = machine.run("provider-agent", "status")
        assert "no agent runs with" not in status  # its key is that of the user
        service("status")
        service("restart")
        wait_until_connected(machine, "--user")
        service("stop")
        assert properties(machine, "--user")["ExecMainStatus"] == "0"
        service("status", code=1)
        service("start")
        wait_until_connected(machine, "--user")
        service("uninstall")

    assert not (machine.root / unit).exists()
    assert (machine.root / "operator/.config/provider-agent/identity.key").exists()
