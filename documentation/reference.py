"""`python -m documentation.reference`: write the pages that come from the code."""

from pathlib import Path
from typing import Final

from documentation.commands import commands_page
from documentation.configuration import configuration_page
from provider_agent.agent.cli.main import main

DOCS: Final = Path(__file__).parents[1] / "docs"


def reference_pages() -> dict[str, str]:
    """Return the pages by their names in `docs/`, as the code is now."""
    return {
        "configuration.md": configuration_page((DOCS / "configuration.md").read_text("utf-8")),
        "commands.md": commands_page(main),
    }


if __name__ == "__main__":
    for name, text in reference_pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
