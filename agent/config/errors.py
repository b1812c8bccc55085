"""The one error of the configuration, and the words that its messages share."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """The settings cannot be used.

    Its text is one message for the operator: the place (file, variable or flag), the key, the
    reason and what to do. It never holds the value of a secret.
    """


def bad_value(origin: str, key: str, reason: str) -> ConfigError:
    """The error for the value of `key` (dotted) that came from `origin`."""
    return ConfigError(f"{origin}: {key}: {reason}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A half sentence that names the closest known word, or else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(names)}"
