"""TLS for the link: CA certificates, the client certificate, and TLS errors.

The files are read at every dial, so that renewed certificates need no restart.
"""

import ssl
from pathlib import Path
from typing import Final

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause


class UnusableFile(Exception):
    """A configured file cannot be used; the next dial reads it again.

    The text names the configuration key, the path and the reason, but never the file's content.
    """

    def __init__(self, key: str, path: Path, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            unreadable = isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError)
            text = reason.strerror if unreadable and isinstance(reason, OSError) else None
            reason = text or "its content is invalid"
        super().__init__(f"[coordinator] {key} {path}: {reason}")


class _NeedsPassword(Exception):
    """The private key is encrypted."""


def client_context(
    ca_file: Path | None, client_cert_file: Path | None, client_key_file: Path | None
) -> ssl.SSLContext:
    """Build the TLS context for one dial. Loading the system's CA certificates takes tens of ms.

    Args:
        ca_file: certificates to trust instead of the system's.
        client_cert_file: the client certificate, as PEM, with its chain.
        client_key_file: the private key; None if `client_cert_file` also contains the key.

    Raises:
        UnusableFile: one of the files is missing or invalid.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UnusableFile("ca_file", ca_file or Path(), error) from error
    # The configuration of OpenSSL may allow older versions; it may also require a newer one.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if client_cert_file is not None:
        _load_client_certificate(context, client_cert_file, client_key_file)
    return context


def _load_client_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    key_source = ("client_cert_file", cert) if key is None else ("client_key_file", key)
    for name, path in (("client_cert_file", cert), key_source):
        try:
            path.open("rb").close()  # OpenSSL does not report which file it could not read
        except OSError as error:
            raise UnusableFile(name, path, error) from error
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except _NeedsPassword:
        raise UnusableFile(
            *key_source, "the key has a password; store the key without one"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the private key does not match the certificate in {cert}"
            raise UnusableFile(*key_source, reason) from error
        reason = "it does not contain a PEM certificate and its private key"
        if key is not None:
            reason = f"this file or client_cert_file {cert} is not valid PEM"
        raise UnusableFile(*key_source, reason) from error


def _refuse_password() -> str:
    """Without this callback, OpenSSL would wait for a password from the terminal."""
    raise _NeedsPassword


_CLIENT_CERTIFICATE_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "a certificate is required",
    "TLSV1_ALERT_UNKNOWN_CA": "unknown certificate authority",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "not accepted",
}
"""Alerts about the client certificate (RFC 8446, section 6.2), by their names in OpenSSL."""


_NO_COMMON_VERSION: Final = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "NO_SHARED_CIPHER",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
    }
)
"""Errors of OpenSSL when the versions or ciphers of the two sides do not match. A server may also
send `handshake_failure` if it receives no client certificate (RFC 5246, section 7.4.6)."""


def explain_tls(error: ssl.SSLError) -> Disconnect:
    """Return what a TLS error means for the next dial."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Disconnect(
            DisconnectCause.BAD_CERTIFICATE,
            f"the server certificate is invalid: {error.verify_message}",
        )
    reason = getattr(error, "reason", "")  # missing if OpenSSL did not raise the error
    alert = _CLIENT_CERTIFICATE_ALERTS.get(reason)
    if alert is not None:
        # Not fatal: the operator may be about to renew an expired certificate.
        detail = f"the coordinator refused the client certificate: {alert}"
        return Disconnect(
            DisconnectCause.UNAUTHORIZED, f"{detail}; check [coordinator] client_cert_file"
        )
    detail = "the TLS handshake failed; should the url begin with ws://?"
    if reason in _NO_COMMON_VERSION:
        detail = (
            "the TLS handshake failed: the server and the agent have no version (1.2 or newer) or "
            "cipher in common, or the server requires a client certificate"
        )
    return Disconnect(DisconnectCause.UPGRADE_REFUSED, detail)
