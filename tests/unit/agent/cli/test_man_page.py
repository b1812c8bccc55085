import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.main import main
from provider_agent.agent.cli.man_page import man_page


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command with its path, such as `service install`."""
    yield context.command_path.partition(" ")[2], command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, click.Context(found, info_name=name, parent=context))


ALL = dict(commands(main, click.Context(main, info_name="provider-agent")))


@pytest.fixture(scope="module")
def source() -> str:
    return CliRunner().invoke(main, ["man"]).stdout


def sections(page: str) -> dict[str, str]:
    """The text below each rendered heading of a command; that of `provider-agent` itself is ""."""
    before, _, after = page.partition("\nCOMMANDS\n")
    parts = re.split(r"(?m)^   (?=\S)", after.partition("\nFILES\n")[0])
    return {"": before} | {part.partition("\n")[0]: part for part in parts if part}


def rendered(source: str, folder: Path) -> str:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    file = folder / "provider-agent.1"
    file.write_text(source, "utf-8")
    done = subprocess.run(
        # All warnings; without colors, bold and hyphenation, in lines of 500 characters.
        ["groff", "-man", "-K", "utf8", "-Tutf8", "-ww", "-P-cbou", "-rHY=0", "-rLL=500n", file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_page_has_every_command_and_every_option(source: str, tmp_path: Path) -> None:
    found = sections(rendered(source, tmp_path))

    for path, command in ALL.items():
        names = [name for name in found if name == path or name.startswith(f"{path} ")]
        text = found[names[0]] if path else found[""]
        for param in command.params:
            if isinstance(param, click.Option):
                missing = [name for name in param.opts if name not in text]
                assert (path, missing) == (path, [])
            else:
                assert param.make_metavar(click.Context(command)) in text
    assert len(ALL) > 20


def test_the_page_contains_the_whole_help_text(source: str, tmp_path: Path) -> None:
    page = " ".join(rendered(source, tmp_path).split())

    for command in ALL.values():
        words = (command.help or "").replace("\b", "").split()
        assert " ".join(words[:8]) in page


@pytest.mark.parametrize(
    "checker",
    [
        ["man", "--warnings", "--encoding=UTF-8", "--local-file"],
        ["mandoc", "-T", "lint", "-W", "error"],
    ],
)
def test_the_page_has_no_warnings(checker: list[str], source: str, tmp_path: Path) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")
    file = tmp_path / "provider-agent.1"
    file.write_text(source, "utf-8")

    done = subprocess.run([*checker, file], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_text_that_roff_would_interpret_is_escaped(tmp_path: Path) -> None:
    @click.command()
    @click.option("--path", help=".TH is no macro here, and \\fB no font.")
    def odd(path: str) -> None:
        """Name of the command.

        'quoted' words start this line - and --this-option stays whole.

        \b
        .first line
          second line
        """

    page = rendered(man_page(odd, "1.0"), tmp_path)

    assert ".TH is no macro here, and \\fB no font." in page
    assert "'quoted' words start this line - and --this-option stays whole." in page
    assert re.search(r"\n +\.first line\n +second line\n", page), page


def test_characters_that_are_copied_to_a_shell_stay_ascii(source: str) -> None:
    """groff 1.23 prints a plain ' ` ^ ~ - as a typographic quote, accent or hyphen."""
    lines = [line for line in source.splitlines() if not re.match(r"\.(TH|SH) ", line)]

    assert [line for line in lines if re.search(r"['`^~]|(?<!\\)-", line)] == []
