"""TLS towards the coordinator: whom to trust, what to show, and what a failed handshake means.

The files are read at every dial, so that renewed certificates need no restart.
"""

import ssl
from pathlib import Path
from typing import Final

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause


class UnusableFile(Exception):
    """A file of the operator's cannot be used now; it may be good at the next attempt.

    The text names the key, the path and the reason, and nothing of the content.
    """

    def __init__(self, key: str, path: Path, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            unreadable = isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError)
            text = reason.strerror if unreadable and isinstance(reason, OSError) else None
            reason = text or "it does not hold what it should"
        super().__init__(f"[coordinator] {key} {path}: {reason}")


class _NeedsPassword(Exception):
    """The private key is encrypted."""


def client_context(
    ca_file: Path | None, client_cert_file: Path | None, client_key_file: Path | None
) -> ssl.SSLContext:
    """The TLS settings for one dial. Reads files: some dozen milliseconds for a system's store.

    Args:
        ca_file: certificates to trust instead of the system's.
        client_cert_file: certificate to show, with the chain above it.
        client_key_file: its private key; None: it stands in `client_cert_file`.

    Raises:
        UnusableFile: one of the files is missing or does not hold what it should.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UnusableFile("ca_file", ca_file or Path(), error) from error
    if client_cert_file is not None:
        _load_client_certificate(context, client_cert_file, client_key_file)
    return context


def _load_client_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    named = ("client_cert_file", cert) if key is None else ("client_key_file", key)
    for name, path in (("client_cert_file", cert), named):
        try:
            path.open("rb").close()  # OpenSSL does not say which of the two it could not read
        except OSError as error:
            raise UnusableFile(name, path, error) from error
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except _NeedsPassword:
        raise UnusableFile(*named, "the key has a password; store it without one") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the private key is not that of the certificate in {cert}"
            raise UnusableFile(*named, reason) from error
        which = "it does not hold a certificate and its key as PEM"
        if key is not None:
            which = f"this file, or client_cert_file {cert}, is not PEM of its kind"
        raise UnusableFile(*named, which) from error


def _refuse_password() -> str:
    """Without it OpenSSL would ask on the terminal, and wait."""
    raise _NeedsPassword


_CLIENT_CERTIFICATE_ALERTS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants one",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know who issued it",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "not accepted",
}
"""Alerts about our certificate (RFC 8446, section 6.2), as OpenSSL names them."""


def explain_tls(error: ssl.SSLError) -> Disconnect:
    """What a failure of TLS means. A pure table."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Disconnect(
            DisconnectCause.BAD_CERTIFICATE, f"the certificate is not good: {error.verify_message}"
        )
    # One that was not made by OpenSSL has no reason.
    alert = _CLIENT_CERTIFICATE_ALERTS.get(getattr(error, "reason", ""))
    if alert is not None:
        # Not fatal: a certificate that expired is often about to be renewed.
        detail = f"the coordinator refused the client certificate: {alert}"
        return Disconnect(
            DisconnectCause.UNAUTHORIZED, f"{detail}; check [coordinator] client_cert_file"
        )
    return Disconnect(
        DisconnectCause.LOST, "the TLS handshake failed; should the url begin with ws://?"
    )
