"""Errors of the configuration."""

import difflib
from collections.abc import Iterable

from provider_agent.advised_error import AdvisedError


class ConfigError(AdvisedError):
    """The settings are not valid.

    `problem` starts with the origin (file, variable or flag) and the key. The message never
    contains the value of a secret.
    """


class InvalidValue(AdvisedError, ValueError):
    """A value is not valid; the caller, which knows the key, raises a `ConfigError` from it."""


def bad_value(origin: str, key: str, reason: str, advice: str = "") -> ConfigError:
    """Return the error for the value of the dotted `key` that came from `origin`."""
    return ConfigError(f"{origin}: {key}: {reason}", advice)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return advice with the closest known word, or else with all known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(names)}"
