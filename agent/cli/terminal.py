"""How the commands write for people."""

from rich.console import Console

WIDTH_OF_A_PIPE = 200
"""A log or a pipe has no width; eighty columns would only break the sentences."""


def console() -> Console:
    """Standard output, as wide as the terminal.

    What is shown comes from servers and coordinators, so nothing in it is taken for markup: a
    rejection that names `[coordinator] url` keeps its brackets.
    """
    made = Console(markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = WIDTH_OF_A_PIPE
    return made


def visible(text: str, *, keep: str = "") -> str:
    """`text` without control characters, which could take over the terminal.

    Args:
        text: what somebody else wrote.
        keep: control characters that are welcome.
    """
    return "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text
    )
