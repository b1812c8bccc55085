import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.agent.cli.service.machine import CONFIG, SECRET, Machine, install_for_ada

UNIT = "/etc/systemd/system/provider-agent.service"
USER_UNIT = "/home/ada/.config/systemd/user/provider-agent.service"
ENV = "/etc/provider-agent/agent.env"
NAME = "provider-agent.service"


# --- install --------------------------------------------------------------------------------------


def test_install_writes_the_unit_then_enables_and_starts_it(machine: Machine) -> None:
    result = machine.invoke("install")

    assert result.exit_code == 0, result.output
    assert machine.commands == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "--now", NAME),
    ]
    assert machine.mode(UNIT) == 0o644
    assert f"wrote {UNIT}\n" in result.output


def test_the_installed_unit_of_a_default_installation_is_the_one_in_deploy(
    machine: Machine,
) -> None:
    machine.invoke("install")

    root = Path(__file__).parents[5]
    assert machine.read(UNIT) == (root / "deploy/provider-agent.service").read_text("utf-8")


def test_install_without_start_only_enables(machine: Machine) -> None:
    machine.invoke("install", "--no-start")

    assert machine.commands[-1] == ("systemctl", "enable", NAME)


@pytest.mark.parametrize(
    ("table", "env", "seconds"),
    [
        ("", "", 330),
        ("[limits]\ndrain_timeout_s = 0.5\n", "", 31),
        ("[limits]\ndrain_timeout_s = 3600\n", "", 3630),
        ("", "PROVIDER_AGENT_LIMITS_DRAIN_TIMEOUT_S='60'\n", 90),
    ],
)
def test_the_stop_timeout_is_thirty_seconds_longer_than_the_drain(
    table: str, env: str, seconds: int, machine: Machine
) -> None:
    machine.write("/etc/provider-agent/agent.toml", CONFIG + table)
    machine.write(ENV, f"# comment\n{env}", 0o600)

    machine.invoke("install")

    assert f"\nTimeoutStopSec={seconds}\n" in machine.read(UNIT)


def test_install_creates_an_empty_environment_file_for_root_only(machine: Machine) -> None:
    machine.invoke("install")

    assert machine.mode(ENV) == 0o600
    assert all(line.startswith("#") for line in machine.read(ENV).splitlines())


def test_install_keeps_the_environment_file_and_no_secret_is_in_the_unit(machine: Machine) -> None:
    machine.write(
        "/etc/provider-agent/agent.toml",
        CONFIG + '[[backends]]\nkind = "venice"\napi_key_env = "VENICE_KEY"\n',
    )
    machine.write(ENV, f"VENICE_KEY={SECRET}\n", 0o600)

    result = machine.invoke("install")

    assert result.exit_code == 0, result.output
    assert machine.read(ENV) == f"VENICE_KEY={SECRET}\n"
    assert SECRET not in machine.read(UNIT) + result.output
    assert "VENICE_KEY" not in result.output  # it is set


def test_install_names_the_variable_of_a_key_that_is_not_set(machine: Machine) -> None:
    machine.write(
        "/etc/provider-agent/agent.toml",
        CONFIG + '[[backends]]\nkind = "venice"\napi_key_env = "VENICE_KEY"\n',
    )

    result = machine.invoke("install")

    assert f"set VENICE_KEY in {ENV}, then restart the service\n" in result.output


def test_install_loads_the_credentials_that_the_configuration_names(machine: Machine) -> None:
    machine.write(
        "/etc/provider-agent/agent.toml",
        CONFIG.replace("\n\n", '\ntoken_file = "$CREDENTIALS_DIRECTORY/token"\n\n')
        + '[[backends]]\nkind = "venice"\napi_key_file = "$CREDENTIALS_DIRECTORY/venice"\n',
    )
    for name in ("token", "venice"):
        machine.write(f"/etc/provider-agent/{name}", SECRET, 0o600)

    result = machine.invoke("install")

    assert result.exit_code == 0, result.output
    found = re.findall(r"^LoadCredential=.*", machine.read(UNIT), re.MULTILINE)
    assert found == [
        "LoadCredential=token:/etc/provider-agent/token",
        "LoadCredential=venice:/etc/provider-agent/venice",
    ]
    assert SECRET not in machine.read(UNIT) + result.output


def test_a_second_installation_says_when_a_changed_unit_takes_effect(machine: Machine) -> None:
    machine.invoke("install")
    unchanged = machine.invoke("install")
    machine.write("/etc/provider-agent/agent.toml", CONFIG + "[limits]\ndrain_timeout_s = 5\n")
    changed = machine.invoke("install")

    note = "a running agent uses the new unit after `service restart`\n"
    assert note not in unchanged.output
    assert note in changed.output


def test_install_warns_about_an_enrollment_code_that_every_user_can_read(machine: Machine) -> None:
    code = CONFIG.replace("\n\n", f'\nenrollment_code = "{SECRET}"\n\n')
    machine.write("/etc/provider-agent/agent.toml", code)

    result = machine.invoke("install")

    assert "every user can read the enrollment code" in result.output
    assert SECRET not in result.output + machine.read(UNIT)


# --- --print --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["install", "uninstall", "start", "stop", "restart"])
def test_print_changes_nothing_and_needs_neither_root_nor_systemd(
    action: str, machine: Machine
) -> None:
    machine.invoke("install")
    machine.commands.clear()
    shutil.rmtree(machine.root / "run/systemd")
    machine.uid = 1000
    before = machine.files()

    result = machine.invoke(action, "--print")

    assert result.exit_code == 0, result.output
    assert (machine.commands, machine.files()) == ([], before)
    assert "\nsystemctl " in f"\n{result.output}"


def test_print_shows_the_whole_unit_and_every_command(machine: Machine) -> None:
    printed = machine.invoke("install", "--print").output
    machine.invoke("install")

    assert machine.read(UNIT) in printed
    assert f"# write {UNIT} (mode 0644)\n" in printed
    assert f"# write {ENV} (mode 0600), unless it exists\n" in printed
    assert all(" ".join(command) + "\n" in printed for command in machine.commands)


# --- the user's service ---------------------------------------------------------------------------


def test_a_user_service_uses_the_user_s_own_systemd(desktop: Machine) -> None:
    code, output = install_for_ada(desktop)

    assert code == 0, output
    assert desktop.commands == [
        ("systemctl", "--user", "daemon-reload"),
        ("systemctl", "--user", "enable", "--now", NAME),
    ]
    unit = desktop.read(USER_UNIT)
    assert "WantedBy=default.target" in unit
    assert "EnvironmentFile=-/home/ada/.config/provider-agent/agent.env\n" in unit
    assert not re.search("DynamicUser|StateDirectory|KEY_PATH|Protect|Private|Capabilit", unit)
    assert "NoNewPrivileges=yes" in unit


def test_a_user_service_without_lingering_says_that_it_ends_with_the_login(
    desktop: Machine,
) -> None:
    _, before = install_for_ada(desktop)
    desktop.write("/var/lib/systemd/linger/ada", "")
    _, after = install_for_ada(desktop)

    assert "sudo loginctl enable-linger ada\n" in before
    assert "enable-linger" not in after


def test_a_user_service_may_use_files_in_the_home_folder(desktop: Machine) -> None:
    desktop.command = Path("/home/ada/venv/bin/provider-agent")
    desktop.write(str(desktop.command), "#!/bin/sh\n")

    assert install_for_ada(desktop)[0] == 0


# --- control --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["start"], ("systemctl", "start", NAME)),
        (["stop"], ("systemctl", "stop", NAME)),
        (["restart"], ("systemctl", "restart", NAME)),
        (["status"], ("systemctl", "--no-pager", "status", NAME)),
        (["logs"], ("journalctl", "--no-pager", "--unit", NAME, "--lines", "100")),
        (
            ["logs", "-n", "7", "--follow"],
            ("journalctl", "--no-pager", "--unit", NAME, "--lines", "7", "--follow"),
        ),
    ],
)
def test_each_command_runs_one_command_of_systemd(
    arguments: list[str], command: tuple[str, ...], machine: Machine
) -> None:
    machine.write(UNIT, "")

    result = machine.invoke(*arguments)

    assert result.exit_code == 0, result.output
    assert machine.commands == [command]


def test_commands_of_a_user_service_need_no_root(desktop: Machine) -> None:
    desktop.write(USER_UNIT, "")

    results = [desktop.invoke(name, "--user") for name in ("start", "status", "logs")]

    assert [result.exit_code for result in results] == [0, 0, 0]
    assert desktop.commands == [
        ("systemctl", "--user", "start", NAME),
        ("systemctl", "--user", "--no-pager", "status", NAME),
        ("journalctl", "--no-pager", "--user-unit", NAME, "--lines", "100"),
    ]


def test_status_exits_with_1_if_the_service_does_not_run(machine: Machine) -> None:
    machine.write(UNIT, "")
    machine.exit_codes["status"] = 3  # systemctl(1): the unit is not active

    assert machine.invoke("status").exit_code == 1


def test_a_failed_command_ends_the_installation_and_names_the_log(machine: Machine) -> None:
    machine.exit_codes["daemon-reload"] = 4

    result = machine.invoke("install")

    assert result.exit_code == 1
    assert "`systemctl daemon-reload` failed with exit code 4" in result.output
    assert "provider-agent service logs" in result.output
    assert machine.commands == [("systemctl", "daemon-reload")]


# --- uninstall ------------------------------------------------------------------------------------


def test_uninstall_removes_only_the_unit_and_says_where_the_rest_is(machine: Machine) -> None:
    machine.write("/srv/agent/agent.toml", CONFIG)
    machine.invoke("install", "--config", "/srv/agent/agent.toml")
    machine.write("/var/lib/provider-agent/identity.key", "key")
    before = machine.files()
    machine.commands.clear()

    result = machine.invoke("uninstall")

    assert machine.commands == [
        ("systemctl", "disable", "--now", NAME),
        ("systemctl", "daemon-reload"),
    ]
    assert before.keys() - machine.files().keys() == {UNIT}
    assert "/srv/agent/agent.toml, and /srv/agent/agent.env\n" in result.output
    assert "kept the identity key /var/lib/provider-agent/identity.key" in result.output


# --- the real commands ----------------------------------------------------------------------------


def help_of(command: str) -> str:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed (Debian package systemd)")
    return subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout


def test_the_installed_systemd_has_every_verb_and_option_that_is_used(
    machine: Machine, tmp_path: Path
) -> None:
    machine.invoke("install")
    for action in ("start", "stop", "restart", "status", "uninstall"):
        machine.invoke(action)
    machine.invoke("logs", "--follow")
    desktop = Machine(tmp_path / "desktop", uid=1000)
    install_for_ada(desktop)
    desktop.invoke("logs", "--user")

    used = {
        (command[0], word)
        for command in machine.commands + desktop.commands
        for word in command[1:]
        if word not in (NAME, "100")
    }
    unknown = {
        (command, word)
        for command, word in used
        if not re.search(rf"(^|[\s,]){re.escape(word)}([\s=\[]|$)", help_of(command), re.MULTILINE)
    }
    assert len(used) > 12
    assert unknown == set()
