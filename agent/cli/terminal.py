"""Terminal output of the commands."""

from rich.console import Console

PIPE_WIDTH = 200
"""A pipe has no width; rich's default of eighty columns would break lines."""


def console() -> Console:
    """Create a console on standard output, without rich's markup.

    A setting's name such as `[coordinator] url`, and texts of servers, must not be read as markup.
    """
    output = Console(markup=False, emoji=False, highlight=False)
    if not output.is_terminal:
        output.width = PIPE_WIDTH
    return output


def visible(text: str, *, keep: str = "") -> str:
    """Replace control characters in `text`, which could control the terminal.

    Args:
        text: a text of a server or coordinator.
        keep: control characters to keep.
    """
    return "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text
    )
