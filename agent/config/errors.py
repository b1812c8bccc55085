"""The errors of the configuration."""

import difflib
from collections.abc import Iterable

from provider_agent.advised_error import AdvisedError


class ConfigError(AdvisedError):
    """The settings are not usable.

    `problem` starts with the origin (file, variable or option) and the key. The text never contains
    the value of a secret.
    """


class InvalidValue(AdvisedError, ValueError):
    """A value that its key does not accept; it becomes a `ConfigError` that names the key."""


def bad_value(origin: str, key: str, reason: str, advice: str = "") -> ConfigError:
    """The error for the value of `key` (dotted) that came from `origin`."""
    return ConfigError(f"{origin}: {key}: {reason}", advice)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Advice that names the closest known word, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(names)}"
