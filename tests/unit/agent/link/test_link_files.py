from pathlib import Path

import pytest

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.secrets import MAX_SECRET_BYTES
from provider_agent.agent.link.link_files import read_token, unusable_files
from provider_agent.agent.link.tls import UnusableFile

URL = "wss://c.example/x"


def test_token_is_the_stripped_content_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b" one\r\n")
    assert read_token(file) == "one"
    file.write_bytes(b"t" * MAX_SECRET_BYTES)
    assert read_token(file) == "t" * MAX_SECRET_BYTES


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"sec\nret", b"sec\x00ret", "secrét".encode(), b"s" * (MAX_SECRET_BYTES + 1)],
)
def test_error_names_a_file_without_a_token_but_not_its_content(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(UnusableFile) as caught:
        read_token(file)
    reason = "it does not hold a token: one line of plain text is expected"
    if not content.strip():
        reason = "it is empty"
    assert str(caught.value) == f"[coordinator] token_file {file}: {reason}"


def test_every_unusable_file_is_named(tmp_path: Path) -> None:
    token, ca = tmp_path / "token", tmp_path / "ca.pem"
    config = CoordinatorConfig(url=URL, token_file=token, ca_file=ca)
    missing = "No such file or directory"
    assert unusable_files(config) == [
        f"[coordinator] token_file {token}: it cannot be read: {missing}",
        f"[coordinator] ca_file {ca}: {missing}",
    ]
    token.write_text("one", "utf-8")
    assert unusable_files(config) == [f"[coordinator] ca_file {ca}: {missing}"]


def test_client_certificate_is_checked_even_if_no_ca_file_is_set(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    config = CoordinatorConfig(url=URL, client_cert_file=cert)
    (problem,) = unusable_files(config)
    assert problem.startswith(f"[coordinator] client_cert_file {cert}: ")


def test_no_configured_files_means_no_problems() -> None:
    assert unusable_files(CoordinatorConfig(url=URL)) == []
