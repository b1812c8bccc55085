"""The files of certificates with which a coordinator connects to NATS."""

import os
import ssl
from pathlib import Path

from provider_agent.coordinator.exceptions import SettingsError


class _NeedsPassword(Exception):
    """The private key is encrypted."""


def tls_context(
    ca_file: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    """Return the TLS context for one connection; None if no file is configured.

    Args:
        ca_file: certificates to trust instead of the system's.
        certificate: the client certificate, as PEM, with its chain.
        key: its private key; None if `certificate` also contains the key.

    Raises:
        SettingsError: a file cannot be read or used; the text contains nothing of its content.
    """
    if ca_file is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(f"{ca_file}: cannot be read as certificates in PEM format") from error
    if certificate is not None:
        _load_client_certificate(context, certificate, key or certificate)
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):  # OpenSSL does not report which file it could not read
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{path}: cannot be read")
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except _NeedsPassword:
        raise SettingsError(f"{key}: the key has a password; store the key without one") from None
    except OSError as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            reason = f"the key does not belong to the certificate in {certificate}"
            raise SettingsError(f"{key}: {reason}") from error
        files = f"{certificate}" if key == certificate else f"{certificate} and {key}"
        raise SettingsError(
            f"{files}: cannot be read as a certificate and its private key in PEM format"
        ) from error


def _refuse_password() -> str:
    """Without this callback, OpenSSL would wait for a password from the terminal."""
    raise _NeedsPassword
