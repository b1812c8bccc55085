"""What can be wrong before the coordinator serves anybody.

::

    CoordinatorError
    ├── SettingsError     a setting is wrong or unsafe; the message names it and what to do
    └── CannotListen      the address is taken, not ours or not allowed
"""


class CoordinatorError(Exception):
    """The coordinator cannot start. The text is one message for its operator."""


class SettingsError(CoordinatorError):
    """A setting is wrong or unsafe."""


class CannotListen(CoordinatorError):
    """The address to listen on cannot be had."""
