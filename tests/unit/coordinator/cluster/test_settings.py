from pathlib import Path

import pytest
from click.testing import CliRunner

from provider_agent.coordinator.cluster.settings import ClusterSettings, check_cluster
from provider_agent.coordinator.command import command
from provider_agent.coordinator.exceptions import SettingsError

NATS = "nats://127.0.0.1:4222"


@pytest.mark.parametrize(
    "urls",
    [
        (NATS,),
        ("nats://one:4222", "tls://user:password@two"),
        ("ws://one:80", "wss://two"),
        ("nats://token@[::1]:4222",),
    ],
)
def test_urls_of_nats_clients_are_accepted(urls: tuple[str, ...]) -> None:
    check_cluster(ClusterSettings(urls=urls))


@pytest.mark.parametrize(
    "urls",
    [
        (),
        ("127.0.0.1:4222",),
        ("http://host:4222",),
        ("TLS://host:4222",),  # the NATS client does not read it
        ("nats://",),
        ("nats://u:secret@host:port",),
        ("nats://u:secret@host:0",),
        ("nats://u:secret@host:99999",),
        (NATS, "wss://u:secret@host"),
    ],
)
def test_wrong_urls_are_rejected_without_their_password(urls: tuple[str, ...]) -> None:
    settings = ClusterSettings(urls=urls)
    with pytest.raises(SettingsError) as raised:
        check_cluster(settings)
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("prefix", ["", "a.", "a b", "a.*", ">", "a..b"])
def test_wrong_prefix_is_rejected(prefix: str) -> None:
    with pytest.raises(SettingsError, match="prefix"):
        check_cluster(ClusterSettings(urls=(NATS,), prefix=prefix))


@pytest.mark.parametrize("option", ["--cluster-credentials", "--cluster-ca"])
def test_unreadable_file_exits_with_2(option: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = CliRunner().invoke(command, ["--cluster", NATS, option, missing])
    assert result.exit_code == 2
    assert "missing: cannot be read" in result.output


def test_file_without_certificates_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    result = CliRunner().invoke(command, ["--cluster", NATS, "--cluster-ca", str(file)])
    assert result.exit_code == 2
    assert "cannot be read as certificates" in result.output


def test_cluster_options_need_a_server() -> None:
    result = CliRunner().invoke(command, ["--cluster-prefix", "other"])
    assert result.exit_code == 2
    assert "need --cluster" in result.output


def test_wrong_url_in_the_variable_exits_with_2() -> None:
    result = CliRunner().invoke(command, env={"COORDINATOR_CLUSTER": "http://host"})
    assert result.exit_code == 2
    assert "nats://nats.example:4222" in result.output
