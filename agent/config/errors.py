"""Errors of the configuration."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from provider_agent.advised_error import AdvisedError

MAX_SHOWN: Final = 10
"""The most errors in one message."""

_BACKEND: Final = re.compile(r"backends\[(\d+)\]")
_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


class ConfigError(AdvisedError):
    """The settings are not valid.

    `problem` starts with the origin (file, variable or flag) and the key. The message never
    contains the value of a secret.
    """


class InvalidValue(AdvisedError, ValueError):
    """A value is not valid; the caller, which knows the key, raises a `ConfigError` from it."""


class SeveralConfigErrors(ConfigError):
    """Several settings are not valid; its text has one line for each of the first ones.

    Attributes:
        errors: all of them.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        shown = [str(error) for error in errors[:MAX_SHOWN]]
        if more := len(errors) - len(shown):
            shown.append(f"and {more} more")
        super().__init__("\n  ".join([f"{len(errors)} settings are not valid:", *shown]))
        self.errors = tuple(errors)


class ErrorCollector:
    """Collects the errors of settings that are checked independently of each other.

    Attributes:
        errors: those so far.
    """

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Continue after the block if it raises a `ConfigError`, and remember the error."""
        try:
            yield
        except ConfigError as error:
            self.errors.append(error)

    def raise_errors(self) -> None:
        """Raise the only error, or all of them together, if there are any.

        Raises:
            ConfigError: a setting is not valid.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise SeveralConfigErrors(self.errors)


def bad_value(origin: str, key: str, reason: str, advice: str = "") -> ConfigError:
    """Return the error for the value of the dotted `key` that came from `origin`."""
    return ConfigError(f"{origin}: {with_ordinal(key)}: {reason}", advice)


def with_ordinal(key: str) -> str:
    """Return a dotted key; after `backends[1]` it says which one that is: people count from one.

    `backends[0]` cannot be taken for another one.
    """
    match = _BACKEND.match(key)
    index = 0 if match is None else int(match[1])
    if index == 0:
        return key
    ordinal = _ORDINALS[index] if index < len(_ORDINALS) else f"{index + 1}th"
    return f"{key} (the {ordinal} [[backends]])"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return advice with the closest known word, or else with all known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(names)}"
