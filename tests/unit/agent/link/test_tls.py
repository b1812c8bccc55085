import ssl
from pathlib import Path

import pytest

from provider_agent.agent.link.backoff import DisconnectCause
from provider_agent.agent.link.tls import UnusableFile, client_context, explain_tls
from tests.kit.certificates import CertificateAuthority


def unusable(*files: Path | None) -> str:
    """Return the error about these files: CA file, client certificate, client key."""
    with pytest.raises(UnusableFile) as caught:
        client_context(*(*files, None, None, None)[:3])
    return str(caught.value)


def test_certificates_are_verified_by_default() -> None:
    context = client_context(None, None, None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_ca_file_replaces_the_authorities_of_the_system(tmp_path: Path) -> None:
    assert len(client_context(CertificateAuthority(tmp_path).file, None, None).get_ca_certs()) == 1


def test_missing_file_is_named(tmp_path: Path) -> None:
    combined = CertificateAuthority(tmp_path).issue("client")
    missing = tmp_path / "missing"
    text = f"{missing}: No such file or directory"
    assert unusable(missing) == f"[coordinator] ca_file {text}"
    assert unusable(None, missing) == f"[coordinator] client_cert_file {text}"
    assert unusable(None, missing, combined) == f"[coordinator] client_cert_file {text}"
    assert unusable(None, combined, missing) == f"[coordinator] client_key_file {text}"


def test_invalid_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    combined, not_pem = authority.issue("client"), tmp_path / "not_pem"
    not_pem.write_text("a secret, not PEM")
    texts = [unusable(not_pem), unusable(None, not_pem), unusable(None, combined, not_pem)]
    texts.append(unusable(None, not_pem, combined))
    assert [text.split()[1] for text in texts] == [
        "ca_file",
        "client_cert_file",
        "client_key_file",
        "client_key_file",
    ]
    assert "secret" not in " ".join(texts)
    assert f"{combined}: this file or client_cert_file {not_pem} is not valid PEM" in texts[-1]
    # The file of the authority has a certificate without its key.
    assert unusable(None, authority.file).endswith(
        "it does not contain a PEM certificate and its private key"
    )


def test_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other").with_suffix(".key")
    text = unusable(None, one, other)
    assert text == (
        f"[coordinator] client_key_file {other}: "
        f"the private key does not match the certificate in {one}"
    )


def test_key_with_a_password_is_refused_without_a_prompt(tmp_path: Path) -> None:
    # OpenSSL would prompt on the terminal, and block every job.
    combined = CertificateAuthority(tmp_path).issue("client", password="pass")
    text = "the key has a password; store the key without one"
    assert unusable(None, combined) == f"[coordinator] client_cert_file {combined}: {text}"


@pytest.mark.parametrize(
    ("reason", "cause", "text"),
    [
        (
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            DisconnectCause.UNAUTHORIZED,
            "is required",
        ),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", DisconnectCause.UNAUTHORIZED, "expired"),
        ("NO_SHARED_CIPHER", DisconnectCause.UPGRADE_REFUSED, "cipher"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", DisconnectCause.UPGRADE_REFUSED, "1.2 or newer"),
        ("WRONG_VERSION_NUMBER", DisconnectCause.UPGRADE_REFUSED, "ws://"),
        (None, DisconnectCause.UPGRADE_REFUSED, "ws://"),
    ],
)
def test_tls_error_maps_to_a_cause(reason: str | None, cause: DisconnectCause, text: str) -> None:
    error = ssl.SSLError(1, "it failed")
    if reason is not None:
        error.reason = reason
    disconnect = explain_tls(error)
    assert disconnect.cause is cause
    assert text in disconnect.detail
