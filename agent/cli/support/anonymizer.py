"""Removes what a published text must not contain: secrets, user names, addresses of machines."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from provider_agent.adapters.responses.redaction import MIN_SECRET_CHARS, redact

_USERINFO: Final = re.compile(r"(?<=://)[^\s/@\"'<>]{0,512}@")
_QUERY: Final = re.compile(r"(://[^\s?#\"'<>]{1,2048})[?#][^\s\"'<>]+")
_URL_HOST: Final = re.compile(
    r"(?:(?<=://)|(?<=://\[redacted\]@))(?:\[[0-9a-fA-F:.%]+\]|[^\s/:?#@\[\]\"'<>,;)\\]+)"
)
_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_IPV6: Final = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:.])")
_EMAIL: Final = re.compile(r"[\w.+-]{1,128}@[\w-]{1,128}\.[\w.-]{1,128}")
_HOME: Final = re.compile(r"(?:(?<=/home/)|(?<=/Users/))[^/\s\"':]+")
_SECRET_NAME: Final = re.compile(
    r"key|token|secret|passw|code|credential|auth|cookie|dsn|wallet", re.IGNORECASE
)
_LOCAL_NAMES: Final = frozenset({"localhost", "not-set.invalid"})
_SYSTEM_USERS: Final = frozenset({"root", "provider-agent", "nobody", "app", "user"})
"""User names that identify no person, and occur as ordinary words."""


class Anonymizer:
    """Replaces what must not be published, the same way in every text.

    Args:
        secrets: values that are removed wherever they occur.
        names: values that are replaced by `[name]`, such as the user's name.
        hosts: names of machines that are replaced wherever they occur; those in URLs, and IP
            addresses, are replaced without being listed. Loopback addresses stay.
        home: the home directory, which becomes `~`.
        keep_hosts: whether names and addresses of machines stay.
    """

    def __init__(
        self,
        secrets: Collection[str],
        names: Collection[str] = (),
        hosts: Iterable[str] = (),
        *,
        home: str = "",
        keep_hosts: bool = False,
    ) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._secrets = sorted(forms, key=len, reverse=True)
        self._home = home if len(home) > 1 else ""
        self._keep_hosts = keep_hosts
        self._aliases: dict[str, str] = {}
        self._names = _any_of(name for name in names if name and name not in _SYSTEM_USERS)
        known = [] if keep_hosts else [host for host in hosts if host and not _is_local(host)]
        self._hosts = _any_of(known)

    def __repr__(self) -> str:
        return f"<Anonymizer hosts={len(self._aliases)}>"

    def clean(self, text: str) -> str:
        """Return the text without anything that must not be published."""
        for secret in self._secrets:
            if len(secret) >= MIN_SECRET_CHARS:
                text = text.replace(secret, "[redacted]")
            else:  # a short one may be part of an ordinary word
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "[redacted]", text)
        text = _USERINFO.sub("[redacted]@", text)
        text = _QUERY.sub(r"\1?[redacted]", text)
        text = redact(text, ())
        if self._home:
            text = text.replace(self._home, "~")
        text = _HOME.sub("[user]", text)
        text = _EMAIL.sub("[email]", text)
        if self._names is not None:
            text = self._names.sub("[name]", text)
        if self._keep_hosts:
            return text
        text = _URL_HOST.sub(lambda found: self._alias(found.group()), text)
        if self._hosts is not None:
            text = self._hosts.sub(lambda found: self._alias(found.group()), text)
        text = _IPV4.sub(lambda found: self._alias(found.group()), text)
        return _IPV6.sub(lambda found: self._alias(found.group()), text)

    def clean_json(self, value: object) -> object:
        """Return a value of JSON with all its texts cleaned.

        Numbers and words such as `false` stay: they would also be values of harmless variables,
        such as TOKENIZERS_PARALLELISM, and the result would not be JSON.
        """
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, Mapping):
            return {self.clean(str(key)): self.clean_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean_json(item) for item in value]
        return value

    def _alias(self, host: str) -> str:
        bare = host.strip("[]").lower()
        if _is_local(bare) or bare.startswith(("host-", "redacted")):
            return host
        if ":" in bare and not _is_address(bare):  # a time of day, for example
            return host
        return self._aliases.setdefault(bare, f"host-{len(self._aliases) + 1}")


def environment_secrets(environ: Mapping[str, str]) -> set[str]:
    """Return the values of all variables whose names sound like a secret, and passwords in URLs."""
    found = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    for value in environ.values():
        if "://" in value and "@" in value:
            found |= url_secrets(value)
    # Paths, such as that of a key file, are no secrets, and a short value is part of many texts.
    return {
        one.strip() for one in found if len(one.strip()) >= 4 and not one.startswith(("/", "~"))
    }


def url_secrets(url: str) -> set[str]:
    """Return user name and password of a URL."""
    try:
        parts = urlsplit(url)
        return {one for one in (parts.username, parts.password) if one}
    except ValueError:
        return set()


def file_secrets(path: Path) -> set[str]:
    """Return the lines of a key file, which must never occur in a text; none if unreadable."""
    try:
        with path.open("rb") as file:
            lines = file.read(64 * 1024).decode("latin-1").splitlines()
    except OSError:
        return set()
    return {line.strip() for line in lines if len(line.strip()) >= 16 and "-----" not in line}


def user_name(environ: Mapping[str, str]) -> str:
    """Return the name of the user, from the environment or the home directory."""
    return environ.get("USER") or environ.get("LOGNAME") or Path(environ.get("HOME", "")).name


def _forms(secret: str) -> set[str]:
    """Return a secret as it occurs in plain text, in URLs, in JSON, and in JSON within JSON."""
    found = {secret, unquote(secret), quote(secret, safe="")}
    for _ in range(2):
        found |= {
            json.dumps(one, ensure_ascii=flag)[1:-1] for one in found for flag in (True, False)
        }
    return found


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    found = sorted({re.escape(text) for text in texts}, key=len, reverse=True)
    pattern = rf"(?<![\w.-])(?:{'|'.join(found)})(?![\w-])"
    return re.compile(pattern, re.IGNORECASE) if found else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    host = host.strip("[]").lower()
    if host in _LOCAL_NAMES:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
