from pathlib import Path

import pytest

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link.link_files import MAX_TOKEN_BYTES, read_token, unusable_files
from provider_agent.agent.link.tls import UnusableFile

URL = "wss://c.example/x"


def test_a_token_is_what_its_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b" one\r\n")
    assert read_token(file) == "one"
    file.write_bytes(b"t" * MAX_TOKEN_BYTES)
    assert read_token(file) == "t" * MAX_TOKEN_BYTES


@pytest.mark.parametrize("content", [b"", b" \n", b"sec\nret", b"sec\x00ret", "secrét".encode()])
def test_a_file_without_a_token_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(UnusableFile) as caught:
        read_token(file)
    reason = "it does not hold what it should"
    assert str(caught.value) == f"[coordinator] token_file {file}: {reason}"


def test_every_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    token, ca = tmp_path / "token", tmp_path / "ca.pem"
    config = CoordinatorConfig(url=URL, token_file=token, ca_file=ca)
    missing = "No such file or directory"
    assert unusable_files(config) == [
        f"[coordinator] token_file {token}: {missing}",
        f"[coordinator] ca_file {ca}: {missing}",
    ]
    token.write_text("one", "utf-8")
    assert unusable_files(config) == [f"[coordinator] ca_file {ca}: {missing}"]


def test_a_client_certificate_is_looked_at_beside_the_systems_authorities(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    config = CoordinatorConfig(url=URL, client_cert_file=cert)
    (problem,) = unusable_files(config)
    assert problem.startswith(f"[coordinator] client_cert_file {cert}: ")


def test_without_files_nothing_can_be_wrong_with_them() -> None:
    assert unusable_files(CoordinatorConfig(url=URL)) == []
