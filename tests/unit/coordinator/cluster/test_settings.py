from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from provider_agent.coordinator.cluster.credentials import read_credentials
from provider_agent.coordinator.cluster.settings import ClusterSettings, check_cluster
from provider_agent.coordinator.command import command
from provider_agent.coordinator.exceptions import SettingsError
from tests.kit.certificates import CertificateAuthority

NATS = "nats://127.0.0.1:4222"

SEED = "SU" + "A" * 56

CREDENTIALS = f"""\
-----BEGIN NATS USER JWT-----
head.claims.signature
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.

-----BEGIN USER NKEY SEED-----
{SEED}
------END USER NKEY SEED------
"""


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


def _error(*options: str | Path) -> str:
    result = CliRunner().invoke(command, ["--cluster", NATS, *map(str, options)])
    assert result.exit_code == 2
    return result.output


@pytest.mark.parametrize("option", ["--cluster-credentials", "--cluster-ca", "--cluster-cert"])
def test_unreadable_file_exits_with_2(option: str, tmp_path: Path) -> None:
    assert "missing: cannot be read" in _error(option, tmp_path / "missing")


def test_file_without_certificates_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "pem"
    file.write_text("neither certificate nor key")
    assert "cannot be read as certificates" in _error("--cluster-ca", file)
    assert "pem: cannot be read as a certificate and its" in _error("--cluster-cert", file)


def test_client_certificate_without_a_usable_key_exits_with_2(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    locked = authority.issue("locked", password="secret")
    key = ("--cluster-cert", one, "--cluster-key")
    assert "--cluster-key needs --cluster-cert" in _error("--cluster-key", one.with_suffix(".key"))
    assert "missing: cannot be read" in _error(*key, tmp_path / "missing")
    assert "does not belong to the certificate in" in _error(*key, other.with_suffix(".key"))
    assert "the key has a password" in _error("--cluster-cert", locked)
    assert "one.pem and " in _error(*key, authority.file)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:0],
        lambda text: text.replace("NATS USER JWT", "JWT"),
        lambda text: text.replace("USER NKEY SEED", "SEED"),
        lambda text: text.replace("SU", "SA"),  # the seed of an account
        lambda text: text.split("SU", maxsplit=1)[0],
    ],
)
def test_file_that_is_no_credentials_exits_with_2(
    change: Callable[[str], str], tmp_path: Path
) -> None:
    # The NATS client read an empty file in a loop without an end.
    file = tmp_path / "user.creds"
    file.write_text(CREDENTIALS)
    check_cluster(ClusterSettings(urls=(NATS,), credentials=file))
    file.write_text(change(CREDENTIALS))
    output = _error("--cluster-credentials", file)
    assert "user.creds: is not the credentials file of a NATS user" in output
    assert SEED not in output


def test_credentials_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text(CREDENTIALS)
    credentials = read_credentials(file)
    assert (credentials.jwt, credentials.seed) == (b"head.claims.signature", SEED.encode())
    assert SEED not in repr(credentials)


def test_cluster_options_need_a_server() -> None:
    for options in (["--cluster-prefix", "other"], ["--cluster-cert", "file"]):
        result = CliRunner().invoke(command, options)
        assert result.exit_code == 2
        assert "need --cluster" in result.output


def test_wrong_url_in_the_variable_exits_with_2() -> None:
    result = CliRunner().invoke(command, env={"COORDINATOR_CLUSTER": "http://host"})
    assert result.exit_code == 2
    assert "nats://nats.example:4222" in result.output
