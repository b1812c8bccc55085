"""Which identity key an installed service has."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.service.host import ServiceError
from provider_agent.agent.cli.service.identity_key import KeyChoice, key_steps
from provider_agent.agent.cli.service.service_config import read_service_config
from tests.unit.agent.cli.service.machine import CONFIG, Machine, install_for_ada

UNIT = "/etc/systemd/system/provider-agent.service"
USER_UNIT = "/home/ada/.config/systemd/user/provider-agent.service"
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


@pytest.mark.parametrize(
    "key", ["/home/ada/.usepod-agent/identity.key", "/var/lib/usepod-agent/identity.key"]
)
def test_the_key_of_the_rust_agent_is_not_silently_replaced(key: str, machine: Machine) -> None:
    # A new key would be a new provider at its marketplace.
    machine.write(key, PEM, 0o600)

    assert machine.invoke("install", "--print").exit_code == 0  # another coordinator
    marketplace = re.sub(
        "url = .*", 'url = "wss://api.usepod.ai/provider/connect"', CONFIG, count=1
    )
    machine.write("/etc/provider-agent/agent.toml", marketplace)
    result = machine.invoke("install")

    assert result.exit_code == 2
    assert f"add `--key {key}` to copy it, or --new-key" in result.output


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
