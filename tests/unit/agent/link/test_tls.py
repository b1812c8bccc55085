import ssl
from pathlib import Path

import pytest

from provider_agent.agent.link.backoff import DisconnectCause
from provider_agent.agent.link.tls import UnusableFile, client_context, explain_tls
from tests.kit.certificates import CertificateAuthority


def unusable(*files: Path | None) -> str:
    with pytest.raises(UnusableFile) as caught:
        client_context(*(*files, None, None, None)[:3])
    return str(caught.value)


def test_certificates_are_checked_by_default() -> None:
    context = client_context(None, None, None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_the_own_authority_stands_in_place_of_the_systems(tmp_path: Path) -> None:
    assert len(client_context(CertificateAuthority(tmp_path).file, None, None).get_ca_certs()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    both = CertificateAuthority(tmp_path).issue("client")
    missing = tmp_path / "missing"
    text = f"{missing}: No such file or directory"
    assert unusable(missing) == f"[coordinator] ca_file {text}"
    assert unusable(None, missing) == f"[coordinator] client_cert_file {text}"
    assert unusable(None, missing, both) == f"[coordinator] client_cert_file {text}"
    assert unusable(None, both, missing) == f"[coordinator] client_key_file {text}"


def test_a_file_that_holds_something_else_is_named_and_not_quoted(tmp_path: Path) -> None:
    own = CertificateAuthority(tmp_path)
    both, odd = own.issue("client"), tmp_path / "odd"
    odd.write_text("a secret that is no PEM")
    texts = [unusable(odd), unusable(None, odd), unusable(None, both, odd)]
    texts.append(unusable(None, odd, both))
    assert [text.split()[1] for text in texts] == [
        "ca_file",
        "client_cert_file",
        "client_key_file",
        "client_key_file",
    ]
    assert "secret" not in " ".join(texts)
    assert f"{both}: this file, or client_cert_file {odd}, is not PEM" in texts[-1]
    # A certificate without its key.
    assert unusable(None, own.file).endswith("it does not hold a certificate and its key as PEM")


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    own = CertificateAuthority(tmp_path)
    one, other = own.issue("one"), own.issue("other").with_suffix(".key")
    text = unusable(None, one, other)
    assert text == (
        f"[coordinator] client_key_file {other}: "
        f"the private key does not match the certificate in {one}"
    )


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    # OpenSSL would have asked on the terminal, with every job waiting for the answer.
    both = CertificateAuthority(tmp_path).issue("client", password="pass")
    text = "the key has a password; store the key without one"
    assert unusable(None, both) == f"[coordinator] client_cert_file {both}: {text}"


@pytest.mark.parametrize(
    ("reason", "cause", "text"),
    [
        (
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            DisconnectCause.UNAUTHORIZED,
            "is required",
        ),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", DisconnectCause.UNAUTHORIZED, "expired"),
        ("WRONG_VERSION_NUMBER", DisconnectCause.LOST, "ws://"),
        (None, DisconnectCause.LOST, "ws://"),
    ],
)
def test_alerts_about_the_own_certificate_are_told_apart(
    reason: str | None, cause: DisconnectCause, text: str
) -> None:
    error = ssl.SSLError(1, "it failed")
    if reason is not None:
        error.reason = reason
    disconnect = explain_tls(error)
    assert disconnect.cause is cause
    assert text in disconnect.detail
