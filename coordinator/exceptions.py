"""The errors that prevent the coordinator from starting.

::

    CoordinatorError
    ├── SettingsError     a setting is wrong or unsafe; the message names it and what to do
    └── CannotListen      the address is in use, not local or not allowed
"""


class CoordinatorError(Exception):
    """The coordinator cannot start; the text is one message for the operator."""


class SettingsError(CoordinatorError):
    """A setting is wrong or unsafe."""


class CannotListen(CoordinatorError):
    """The coordinator cannot listen on the address."""
