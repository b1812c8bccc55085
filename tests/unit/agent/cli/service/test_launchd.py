import plistlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.cli.service.machine import CONFIG, Machine

PLIST = "/Library/LaunchDaemons/provider-agent.plist"
USER_PLIST = "/home/ada/Library/LaunchAgents/provider-agent.plist"
STATE = "/Library/Application Support/provider-agent"
TARGET = "system/provider-agent"

# launchd.plist(5): the keys with their types. `Umask` is an integer, because a property list has no
# octal numbers; `ExitTimeOut` must not be 0, which means infinity.
KEYS: dict[str, type] = {
    "Label": str,
    "UserName": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "WorkingDirectory": str,
    "RunAtLoad": bool,
    "KeepAlive": bool,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "SoftResourceLimits": dict,
    "HardResourceLimits": dict,
    "Umask": int,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}

# launchctl(1): `bootstrap DOMAIN PATH`, `bootout|enable|kickstart|print TARGET`, and
# `kill SIGNAL TARGET`, with the domains system and gui/UID. sysadminctl(8): `-addUser NAME
# -fullName NAME -UID ID -roleAccount`, for names that start with `_` and ids from 200 to 400.
GRAMMAR = re.compile(
    r"launchctl (bootstrap (system|gui/\d+) /\S+\.plist"
    r"|(bootout|enable|kickstart|print) (system|gui/\d+)/provider-agent"
    r"|kill SIGTERM (system|gui/\d+)/provider-agent)"
    r"|sysadminctl -addUser _\w+ -fullName \S+ -UID (2\d\d|3\d\d|400) -roleAccount"
    r"|tail -n \d+ (-F )?/\S+\.log"
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, platform="darwin")


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    """The machine of the user ada, who is not root."""
    return Machine(tmp_path, platform="darwin", uid=501)


def job_of(machine: Machine, path: str = PLIST) -> dict[str, Any]:
    job: dict[str, Any] = plistlib.loads(machine.read(path).encode())
    return job


def install_for_ada(laptop: Machine) -> "tuple[int, str]":
    config = "/home/ada/.config/provider-agent/agent.toml"
    result = laptop.invoke("install", "--user", "--config", config)
    return result.exit_code, result.output


def test_install_creates_user_and_folders_and_loads_the_property_list(machine: Machine) -> None:
    result = machine.invoke("install")

    assert result.exit_code == 0, result.output
    assert machine.commands == [
        (
            "sysadminctl",
            "-addUser",
            "_provideragent",
            "-fullName",
            "provider-agent",
            "-UID",
            "399",  # 400 is taken on this machine
            "-roleAccount",
        ),
        ("launchctl", "enable", TARGET),
        ("launchctl", "bootstrap", "system", PLIST),
    ]
    assert machine.owners == {
        STATE: "_provideragent",
        "/Library/Logs/provider-agent": "_provideragent",
    }
    assert machine.mode(STATE) == 0o700


def test_the_property_list_has_only_known_keys_of_the_right_type(machine: Machine) -> None:
    machine.invoke("install")

    job = job_of(machine)
    assert {key: type(value) for key, value in job.items()} == KEYS
    assert job["ProgramArguments"] == [
        "/opt/provider-agent/bin/provider-agent",
        "run",
        "--config",
        "/etc/provider-agent/agent.toml",
    ]
    assert job["UserName"] == "_provideragent"
    assert job["Umask"] == 0o077
    assert job["EnvironmentVariables"] == {
        "HOME": STATE,
        "PROVIDER_AGENT_IDENTITY_KEY_PATH": f"{STATE}/identity.key",
    }


@pytest.mark.parametrize(("drain", "seconds"), [("300", 330), ("0", 30), ("1.5", 32)])
def test_the_exit_timeout_is_thirty_seconds_longer_than_the_drain(
    drain: str, seconds: int, machine: Machine
) -> None:
    limits = f"[limits]\ndrain_timeout_s = {drain}\n"
    machine.write("/etc/provider-agent/agent.toml", CONFIG + limits)

    machine.invoke("install")

    assert job_of(machine)["ExitTimeOut"] == seconds


def test_an_existing_user_is_used(machine: Machine) -> None:
    machine.users.add("_provideragent")

    machine.invoke("install")

    assert {command[0] for command in machine.commands} == {"launchctl"}


def test_a_configuration_that_only_its_owner_reads_gets_the_service_s_user(
    machine: Machine,
) -> None:
    machine.write("/etc/provider-agent/agent.toml", CONFIG, 0o600)

    machine.invoke("install")

    assert machine.owners["/etc/provider-agent/agent.toml"] == "_provideragent"
    assert machine.mode("/etc/provider-agent/agent.toml") == 0o600


def test_a_user_service_runs_as_the_user_with_the_user_s_key(laptop: Machine) -> None:
    code, output = install_for_ada(laptop)

    assert code == 0, output
    assert laptop.commands == [
        ("launchctl", "enable", "gui/501/provider-agent"),
        ("launchctl", "bootstrap", "gui/501", USER_PLIST),
    ]
    job = job_of(laptop, USER_PLIST)
    assert KEYS.keys() - job.keys() == {"UserName", "EnvironmentVariables", "WorkingDirectory"}
    assert job["StandardErrorPath"] == "/home/ada/Library/Logs/provider-agent.log"


def test_a_key_is_copied_after_its_folder_was_created(machine: Machine) -> None:
    machine.write("/home/ada/identity.key", "key", 0o600)

    printed = machine.invoke("install", "--key", "/home/ada/identity.key", "--print").output
    result = machine.invoke("install", "--key", "/home/ada/identity.key")

    assert result.exit_code == 0, result.output
    assert machine.read(f"{STATE}/identity.key") == "key"
    assert printed.index(f"# create the folder {STATE}") < printed.index("# copy /home/ada")


def test_a_second_installation_does_not_interrupt_the_agent(machine: Machine) -> None:
    machine.invoke("install")
    machine.users.add("_provideragent")
    machine.commands.clear()

    result = machine.invoke("install")

    assert machine.commands == []
    assert "`service stop` and `service start` apply the new property list" in result.output


@pytest.mark.parametrize(
    ("action", "loaded", "commands"),
    [
        ("start", True, [("launchctl", "kickstart", TARGET)]),
        (
            "start",
            False,
            [("launchctl", "enable", TARGET), ("launchctl", "bootstrap", "system", PLIST)],
        ),
        ("stop", True, [("launchctl", "bootout", TARGET)]),
        ("stop", False, []),
        ("restart", True, [("launchctl", "kill", "SIGTERM", TARGET)]),
        (
            "restart",
            False,
            [("launchctl", "enable", TARGET), ("launchctl", "bootstrap", "system", PLIST)],
        ),
        ("status", True, [("launchctl", "print", TARGET)]),
        ("uninstall", True, [("launchctl", "bootout", TARGET)]),
        ("uninstall", False, []),
    ],
)
def test_each_command_depends_on_whether_the_job_is_loaded(
    action: str, loaded: bool, commands: list[tuple[str, ...]], machine: Machine
) -> None:
    machine.invoke("install")
    machine.commands.clear()
    machine.loaded = loaded

    result = machine.invoke(action)

    assert result.exit_code == 0, result.output
    assert machine.commands == commands


def test_a_job_that_still_drains_counts_as_stopped(machine: Machine) -> None:
    machine.invoke("install")
    machine.loaded = True
    machine.exit_codes["bootout"] = 36  # EINPROGRESS: "Operation now in progress"

    assert machine.invoke("stop").exit_code == 0


def test_uninstall_keeps_key_configuration_user_and_log(machine: Machine) -> None:
    machine.invoke("install")
    machine.write(f"{STATE}/identity.key", "key")
    before = machine.files()

    result = machine.invoke("uninstall")

    assert before.keys() - machine.files().keys() == {PLIST}
    assert "kept the configuration /etc/provider-agent/agent.toml\n" in result.output
    assert f"kept the identity key {STATE}/identity.key\n" in result.output
    assert "kept the user _provideragent" in result.output


def test_logs_shows_the_end_of_the_log_file(machine: Machine) -> None:
    missing = machine.invoke("logs")
    machine.write("/Library/Logs/provider-agent/provider-agent.log", "line\n")
    machine.invoke("logs", "-n", "5", "-f")

    assert (missing.exit_code, "there is no log" in missing.output) == (2, True)
    log = "/Library/Logs/provider-agent/provider-agent.log"
    assert machine.commands == [("tail", "-n", "5", "-F", log)]


def test_every_command_has_the_form_that_the_manual_pages_define(
    machine: Machine, tmp_path: Path
) -> None:
    laptop = Machine(tmp_path / "laptop", platform="darwin", uid=501)
    install_for_ada(laptop)
    machine.invoke("install")
    machine.write("/Library/Logs/provider-agent/provider-agent.log", "line\n")
    for loaded in (False, True):
        machine.loaded = loaded
        for action in ("start", "stop", "restart", "status", "logs"):
            machine.invoke(action)

    lines = [" ".join(command) for command in machine.commands + laptop.commands]
    assert len(lines) > 12
    assert [line for line in lines if not GRAMMAR.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("backend", "problem", "advice"),
    [
        ('api_key_env = "VENICE_KEY"', "from the variable VENICE_KEY", "use api_key_file"),
        (
            'api_key_file = "$CREDENTIALS_DIRECTORY/key"',
            "$CREDENTIALS_DIRECTORY, which only systemd sets",
            "write the path of the file instead",
        ),
    ],
)
def test_secrets_that_launchd_cannot_pass_are_refused(
    backend: str, problem: str, advice: str, machine: Machine
) -> None:
    table = f'[[backends]]\nkind = "venice"\n{backend}\n'
    machine.write("/etc/provider-agent/agent.toml", CONFIG + table)

    result = machine.invoke("install")

    assert result.exit_code == 2
    assert problem in result.output
    assert advice in result.output
    assert machine.commands == []


def test_a_system_service_needs_root(laptop: Machine) -> None:
    result = laptop.invoke("install")

    assert result.exit_code == 2
    assert "a system service needs root; use `sudo" in result.output


def test_a_user_service_is_not_installed_with_sudo(machine: Machine) -> None:
    result = machine.invoke("install", "--user")

    assert (result.exit_code, "run the command without sudo" in result.output) == (2, True)


def test_without_launchctl_nothing_is_installed(machine: Machine) -> None:
    machine.missing = {"launchctl"}

    result = machine.invoke("install")

    assert (result.exit_code, machine.commands) == (2, [])
    assert "the command launchctl is missing" in result.output
