"""The optional extra `demo`, whose packages may be missing."""

from importlib.util import find_spec


class DemoExtraMissing(Exception):
    """A package of the extra is not installed; the text names it and the command to install it."""


def require_extra(*modules: str) -> None:
    """Check that these modules of the extra can be imported, without importing them.

    Raises:
        DemoExtraMissing: at least one is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DemoExtraMissing(
            f"{', '.join(missing)} not installed; "
            "install the demo extra with: pip install 'provider-agent[demo]'"
        )
