"""docs/commands.md comes from the help texts of the commands."""

import click

from documentation.commands import commands_page
from documentation.reference import DOCS
from provider_agent.agent.cli.main import main


def test_the_page_is_that_of_the_code() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert commands_page(main) == page, "run make docs-reference"


def test_a_command_has_usage_text_and_options() -> None:
    @click.command()
    @click.argument("name")
    @click.option("--level", default=3, show_default=True, help="One of [a|b] *x*.")
    @click.option("--secret", hidden=True, help="Hidden.")
    def greet(name: str, level: int, secret: str) -> None:
        """Greet <name>.

        \b
        Two  spaces
        """

    group = click.Group("tool", commands={"greet": greet})

    page = commands_page(group).partition("\n## greet\n")[2]

    assert page == (
        "\n```\nprovider-agent greet [OPTIONS] NAME\n```\n\nGreet &lt;name>.\n\n"
        "```\nTwo  spaces\n```\n\n| option | meaning |\n| --- | --- |\n"
        "| `--level INTEGER` | One of \\[a\\|b\\] \\*x\\*. \\[default: 3\\] |\n"
    )
