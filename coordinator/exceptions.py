"""The errors that prevent the coordinator from starting.

::

    CoordinatorError
    ├── SettingsError     a setting is wrong or unsafe; the message names the setting
    └── CannotListen      the operating system refuses the address, for example because it is in use
"""


class CoordinatorError(Exception):
    """The coordinator cannot start; the text is one message for the operator."""


class SettingsError(CoordinatorError):
    """A setting is wrong or unsafe."""


class CannotListen(CoordinatorError):
    """The coordinator cannot listen on the address."""
