"""What a service of systemd requires before anything is changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.agent.cli.service.machine import CONFIG, SECRET, Machine, install_for_ada

UNIT = "/etc/systemd/system/provider-agent.service"
USER_UNIT = "/home/ada/.config/systemd/user/provider-agent.service"


def without_systemd(machine: Machine) -> None:
    shutil.rmtree(machine.root / "run/systemd")


def without_systemctl(machine: Machine) -> None:
    machine.missing = {"systemctl"}


def without_root(machine: Machine) -> None:
    machine.uid = 1000


def without_config(machine: Machine) -> None:
    (machine.root / "etc/provider-agent/agent.toml").unlink()


def with_invalid_config(machine: Machine) -> None:
    machine.write("/etc/provider-agent/agent.toml", CONFIG + "[limits]\ndrain_timeout_s = -1\n")


def without_command(machine: Machine) -> None:
    machine.command = Path("/opt/other/provider-agent")


def with_command_in_a_home_folder(machine: Machine) -> None:
    machine.command = Path("/home/ada/venv/bin/provider-agent")
    machine.write(str(machine.command), "#!/bin/sh\n")


def with_interpreter_in_a_home_folder(machine: Machine) -> None:
    machine.interpreter = Path("/root/.local/share/uv/python/bin/python3.13")


def with_strange_path(machine: Machine) -> None:
    machine.command = Path("/opt/my tools/provider-agent")
    machine.write(str(machine.command), "#!/bin/sh\n")


def with_unreadable_config(machine: Machine) -> None:
    machine.write("/etc/provider-agent/agent.toml", CONFIG, 0o600)


def with_enrollment_code(machine: Machine) -> None:
    code = CONFIG.replace("\n\n", f'\nenrollment_code = "{SECRET}"\n\n')
    machine.write("/etc/provider-agent/agent.toml", code, 0o600)


def with_unreachable_config(machine: Machine) -> None:
    (machine.root / "etc/provider-agent").chmod(0o700)


def without_credential(machine: Machine) -> None:
    backend = '[[backends]]\nkind = "venice"\napi_key_file = "$CREDENTIALS_DIRECTORY/venice"\n'
    machine.write("/etc/provider-agent/agent.toml", CONFIG + backend)


def on_windows(machine: Machine) -> None:
    machine.platform = "win32"


@pytest.mark.parametrize(
    ("break_it", "problem", "advice"),
    [
        (without_systemd, "systemd does not manage this machine", "supervisor run `provider-agent"),
        (without_systemctl, "the command systemctl is missing", "install the package systemd"),
        (without_root, "a system service needs root", "use `sudo /opt/provider-agent/bin/provider"),
        (
            without_config,
            "/etc/provider-agent/agent.toml does not exist",
            "agent init --config /etc/provider-agent/agent.toml; for a service of your own",
        ),
        (with_invalid_config, "limits.drain_timeout_s", ""),
        (without_command, "the command /opt/other/provider-agent does not exist", "install provi"),
        (with_command_in_a_home_folder, "its sandbox hides /home", "/opt/provider-agent"),
        (with_interpreter_in_a_home_folder, "its sandbox hides /root", "the system's Python"),
        (with_strange_path, "/opt/my tools/provider-agent contains a space", "a plain path"),
        (with_unreadable_config, "cannot read /etc/provider-agent/agent.toml (mode 0600)", "chmod"),
        (with_enrollment_code, "(mode 0600)", "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE=…, then"),
        (with_unreachable_config, "the mode of /etc/provider-agent is 0700", "chmod o+x /etc/prov"),
        (without_credential, "/etc/provider-agent/venice does not exist", "install -m 600"),
        (on_windows, "not on win32", "your own supervisor"),
    ],
)
def test_a_missing_precondition_is_one_message_and_changes_nothing(
    break_it: Callable[[Machine], None], problem: str, advice: str, machine: Machine
) -> None:
    break_it(machine)
    before = machine.files()

    result = machine.invoke("install")

    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert problem in result.output
    assert advice in result.output
    assert SECRET not in result.output
    assert (machine.commands, machine.files()) == ([], before)


@pytest.mark.parametrize("action", ["uninstall", "start", "stop", "restart", "status"])
def test_a_command_without_an_installed_service_says_how_to_install_it(
    action: str, machine: Machine
) -> None:
    result = machine.invoke(action)

    assert result.exit_code == 2
    assert "the service is not installed" in result.output
    assert "`provider-agent service install` installs it" in result.output


def test_a_config_in_a_home_folder_is_not_for_a_system_service(machine: Machine) -> None:
    result = machine.invoke("install", "--config", "/home/ada/.config/provider-agent/agent.toml")

    assert result.exit_code == 2
    assert "copy it to /etc/provider-agent/agent.toml, or use --user" in result.output


def test_a_user_service_needs_a_session(desktop: Machine) -> None:
    del desktop.environ["XDG_RUNTIME_DIR"]

    code, output = install_for_ada(desktop)

    assert code == 2
    assert "there is no systemd session of the user ada" in output


def test_a_user_service_is_not_installed_with_sudo(machine: Machine) -> None:
    machine.environ["SUDO_USER"] = "ada"

    result = machine.invoke("install", "--user")

    assert (result.exit_code, "run the command without sudo" in result.output) == (2, True)
