"""An operator, an account and users of NATS, as JWTs that a test signs.

A JWT of NATS is a JSON Web Token whose algorithm is `ed25519-nkey`; issuer and subject are public
keys in the base32 form of nkeys (https://docs.nats.io, JWT authentication).
"""

import base64
import json
import secrets
import time
from pathlib import Path

import nkeys

UNLIMITED = -1


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Key:
    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self._pair = nkeys.from_seed(self.seed)
        self.public = self._pair.public_key.decode()

    def jwt(
        self, subject: str, kind: str, claims: dict[str, object], expires_at: float | None = None
    ) -> str:
        """Sign claims about a subject."""
        now = int(time.time())
        body: dict[str, object] = {
            "jti": secrets.token_hex(8),
            "iat": now,
            "iss": self.public,
            "name": kind,
            "sub": subject,
            "nats": {**claims, "type": kind, "version": 2},
        }
        if expires_at is not None:
            body["exp"] = int(expires_at)
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (header, body))
        return f"{signed}.{_encode(self._pair.sign(signed.encode()))}"


class NatsAccount:
    """One account of a new operator."""

    def __init__(self) -> None:
        self._operator = _Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def write_server_config(self, file: Path) -> Path:
        """Write the configuration of a server that admits the users of the account."""
        operator = self._operator.jwt(self._operator.public, "operator", {})
        limits = dict.fromkeys(
            ("subs", "conn", "leaf", "imports", "exports", "data", "payload"), UNLIMITED
        )
        account = self._operator.jwt(
            self._account.public, "account", {"limits": {**limits, "wildcards": True}}
        )
        file.write_text(
            f"operator: {operator}\n"
            "resolver: MEMORY\n"
            f"resolver_preload: {{ {self._account.public}: {account} }}\n"
        )
        return file

    def write_user(
        self, file: Path, allowed: str | None = None, *, expires_at: float | None = None
    ) -> Path:
        """Write the `.creds` file of a new user, who may use only the subjects `allowed`."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        claims: dict[str, object] = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
        if allowed is not None:
            claims |= {"pub": {"allow": [allowed]}, "sub": {"allow": [allowed]}}
        jwt = self._account.jwt(user.public, "user", claims, expires_at)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return file
