"""The README's quick start: its length, and the test that follows it (`make test-readme`)."""

import os
import re
from pathlib import Path

import pytest

from documentation.markdown import split_fences
from tests.readme.__main__ import quick_start
from tests.readme.console import (
    Command,
    ConsoleError,
    console_blocks,
    follow,
    output_matches,
)

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
MAX_WORDS = 200


def test_at_most_200_words_come_before_the_first_answer() -> None:
    before = README.partition('{…"content":')[0]
    assert before != README
    prose = "".join(part for part, is_code in split_fences(before + "```\n") if not is_code)
    shown = re.sub(r"\]\([^)]*\)", "]", prose)
    assert 50 < len(re.findall(r"[\w'-]+(?:[./:][\w'-]+)*", shown)) <= MAX_WORDS


def test_the_quick_start_goes_from_the_installation_to_an_answer() -> None:
    commands = [command for block in quick_start(README) for command in block]
    steps = ("pip install .", "agent coordinator", "agent init", "agent check", "agent run", "curl")
    found = [step for command in commands for step in steps if step in command.text.split(" --")[0]]
    assert found == list(steps)
    assert commands[-1].output


TEXT = """
```console
$ first \\
    second
one
two
$ third
```

```toml
$ = "no command"
```
"""


def test_commands_have_their_continuation_lines_and_output() -> None:
    assert console_blocks(TEXT) == [
        [Command("first \\\n    second", ("one", "two")), Command("third")]
    ]


@pytest.mark.parametrize(
    ("expected", "output", "complete", "matches"),
    [
        (("a … c",), ["a b c"], True, True),
        (("a   c", "───"), [" a c  ", "─────"], True, True),
        (("a.c",), ["abc"], True, False),
        (("a", "…", "z"), ["a", "b", "c", "z"], True, True),
        (("a", "…", "z"), ["a", "z"], True, True),
        (("a",), ["a", "b"], True, False),
        (("a",), ["a", "b"], False, True),
        (("b",), ["a", "b"], False, False),
        (("a", "b"), ["a"], False, False),
    ],
)
def test_output_is_compared_with_placeholders(
    expected: tuple[str, ...], output: list[str], complete: bool, matches: bool
) -> None:
    assert output_matches(expected, output, complete=complete) is matches


ENVIRON = {"PATH": os.environ["PATH"]}


async def test_a_block_is_one_shell_and_a_server_runs_until_the_end(tmp_path: Path) -> None:
    server = tmp_path / "provider-agent"
    server.write_text("#!/bin/sh\necho ready\nexec sleep 1000\n")
    server.chmod(0o755)
    blocks = console_blocks(
        "```console\n$ export A=1\n$ PATH=.:$PATH\n$ provider-agent run\nready\n```\n"
        '```console\n$ echo "$A"; pgrep -f "^sleep 1000" >found; wc -l <found\n\n1\n```\n'
        '```console\n$ cat\n$ A=2\n$ echo "A is $A"\nA is 2\n```\n'
    )
    await follow(blocks, tmp_path, ENVIRON)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("$ no-such-command", "failed with exit code 127"),
        ("$ false", "failed with exit code 1"),
        ("$ echo two\none", "printed something other than the text shows"),
        ("$ provider-agent run\nready", "ended before it printed what the text shows"),
        ("$ exit 0", "ended the shell"),
    ],
)
async def test_a_wrong_command_or_output_is_an_error(
    tmp_path: Path, block: str, message: str
) -> None:
    with pytest.raises(ConsoleError, match=re.escape(message)):
        await follow(console_blocks(f"```console\n{block}\n```\n"), tmp_path, ENVIRON)
