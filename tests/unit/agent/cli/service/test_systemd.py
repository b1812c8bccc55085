import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.service.host import ServiceError
from provider_agent.agent.cli.service.identity_key import KeyChoice, key_steps
from provider_agent.agent.cli.service.service_config import read_service_config
from tests.unit.agent.cli.service.machine import CONFIG, Machine

UNIT = "/etc/systemd/system/provider-agent.service"
USER_UNIT = "/home/ada/.config/systemd/user/provider-agent.service"
ENV = "/etc/provider-agent/agent.env"
NAME = "provider-agent.service"
SECRET = "sk-SECRET-OF-THE-OPERATOR"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def desktop(tmp_path: Path) -> Machine:
    """The machine of the user ada, who is not root."""
    return Machine(tmp_path, uid=1000)


def install_for_ada(desktop: Machine, *options: str) -> "tuple[int, str]":
    config = "/home/ada/.config/provider-agent/agent.toml"
    result = desktop.invoke("install", "--user", "--config", config, *options)
    return result.exit_code, result.output


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


# --- the identity key -----------------------------------------------------------------------------

KEY = "/var/lib/provider-agent/identity.key"
OLD_KEY = "/home/ada/.config/provider-agent/identity.key"
PEM = "-----BEGIN PRIVATE KEY-----"


def test_install_does_not_silently_replace_the_identity_of_an_agent_run_by_hand(
    machine: Machine,
) -> None:
    machine.write(OLD_KEY, PEM, 0o600)

    result = machine.invoke("install")

    assert result.exit_code == 2
    assert f"would not use the identity key {OLD_KEY}, but create another one" in result.output
    assert f"add `--key {OLD_KEY}` to copy it, or --new-key" in result.output
    assert machine.commands == []


def test_the_key_of_root_is_not_silently_replaced_either(machine: Machine) -> None:
    machine.environ["HOME"] = "/root"
    machine.write("/root/.config/provider-agent/identity.key", PEM, 0o600)

    result = machine.invoke("install")

    assert result.exit_code == 2
    assert "add `--key /root/.config/provider-agent/identity.key`" in result.output


def test_a_key_that_the_configuration_names_is_not_silently_replaced(machine: Machine) -> None:
    key = "/etc/provider-agent/identity.key"
    machine.write(key, PEM, 0o600)
    named = CONFIG + f'[identity]\nkey_path = "{machine.root}{key}"\n'
    machine.write("/etc/provider-agent/agent.toml", named)
    host = machine.host()
    found = read_service_config(host, None, user=False)
    assert found.key_path == machine.root / key[1:]

    with pytest.raises(ServiceError, match="add `--key"):
        key_steps(host, replace(found, key_path=Path(key)), Path(KEY), KeyChoice())


def test_install_copies_the_named_key_for_the_first_start(machine: Machine) -> None:
    machine.write(OLD_KEY, PEM, 0o600)

    printed = machine.invoke("install", "--key", OLD_KEY, "--print")
    result = machine.invoke("install", "--key", OLD_KEY)

    assert result.exit_code == 0, result.output
    assert (machine.read(KEY), machine.mode(KEY)) == (PEM, 0o600)
    assert machine.mode("/var/lib/provider-agent") == 0o700
    assert f"# copy {OLD_KEY} to {KEY} (mode 0600)\n" in printed.output
    assert PEM not in printed.output + result.output


def test_a_new_key_needs_no_copy(machine: Machine) -> None:
    machine.write(OLD_KEY, PEM, 0o600)

    assert machine.invoke("install", "--new-key").exit_code == 0
    assert not machine.exists(KEY)


def test_an_installed_service_keeps_its_key(machine: Machine) -> None:
    machine.write(OLD_KEY, PEM, 0o600)
    machine.write(KEY, "its own", 0o600)

    again = machine.invoke("install")
    other = machine.invoke("install", "--key", OLD_KEY)

    assert again.exit_code == 0
    assert (other.exit_code, "has an identity key already" in other.output) == (2, True)
    assert machine.read(KEY) == "its own"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "/missing.key"], "/missing.key does not exist; name the agent's identity key"),
        (["--user", "--new-key"], "--user uses your own identity key"),
        (["--user", "--key", OLD_KEY], "--user uses your own identity key"),
        (["--new-key", "--key", OLD_KEY], "exclude each other"),
    ],
)
def test_a_useless_choice_of_a_key_is_refused(
    options: list[str], message: str, machine: Machine
) -> None:
    result = machine.invoke("install", *options)

    assert (result.exit_code, machine.commands) == (2, [])
    assert message in result.output


def test_a_user_service_finds_the_key_of_the_user_s_own_config_folder(desktop: Machine) -> None:
    """Without the variable, the agent would create another key in ~/.config."""
    desktop.environ["XDG_CONFIG_HOME"] = "/home/ada/settings"

    install_for_ada(desktop)
    result = desktop.invoke("uninstall", "--user", "--print")

    assert "\nEnvironment=XDG_CONFIG_HOME=/home/ada/settings\n" in desktop.read(USER_UNIT)
    assert "/home/ada/settings/provider-agent/identity.key" in result.output


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


# --- preconditions --------------------------------------------------------------------------------


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
            "agent init --config /etc",
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
