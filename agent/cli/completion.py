"""`provider-agent completion`: completion of commands, options and values in a shell.

The scripts are those of click. They ask `provider-agent` itself for the candidates, so an update of
the agent needs no new script.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "provider-agent"

_VARIABLE: Final = "_PROVIDER_AGENT_COMPLETE"
"""Asks `provider-agent` for candidates; click derives its name from that of the program."""


@click.command(short_help="Print or install the completion of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--install", is_flag=True, help="Write the script to its usual place in your home.")
def completion(shell: str, install: bool) -> None:
    """Print the script with which bash, zsh or fish completes commands and options.

    \b
    bash  needs bash 4.4 or newer and the package bash-completion, which loads
          the installed script; otherwise add to ~/.bashrc:
          eval "$(provider-agent completion bash)"
    zsh   add the folder of the installed script to fpath in ~/.zshrc, before
          compinit; --install prints the line
    fish  loads the installed script by itself
    """
    script = _script(shell)
    if not install:
        click.echo(script, nl=False)
        return
    path = _PLACES[shell](os.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {path}")
    click.echo(_next_step(shell, path))


def _script(shell: str) -> str:
    kind = get_completion_class(shell)
    if kind is None:  # click knows all three since 8.0
        raise click.ClickException(f"click has no completion for {shell}; update click")
    return kind(click.Group(), {}, PROGRAM, _VARIABLE).source()


def _folder(environ: Mapping[str, str], variable: str, default: str) -> Path:
    """Return a folder of the XDG Base Directory Specification, which ignores relative paths."""
    named = environ.get(variable, "")
    home = environ.get("HOME", "")
    return Path(named) if named.startswith("/") else Path(home or Path.home(), default)


def _bash(environ: Mapping[str, str]) -> Path:
    # https://github.com/scop/bash-completion: "Where should I put it to be sure that interactive
    # bash shells will find it and source it?"
    own = environ.get("BASH_COMPLETION_USER_DIR", "")
    data = _folder(environ, "XDG_DATA_HOME", ".local/share")
    return (Path(own) if own else data / "bash-completion") / "completions" / PROGRAM


def _zsh(environ: Mapping[str, str]) -> Path:
    # zsh has no folder of the user in fpath; only the file's name, `_COMMAND`, is given.
    data = _folder(environ, "XDG_DATA_HOME", ".local/share")
    return data / "zsh" / "site-functions" / f"_{PROGRAM}"


def _fish(environ: Mapping[str, str]) -> Path:
    # https://fishshell.com/docs/current/completions.html#where-to-put-completions
    return _folder(environ, "XDG_CONFIG_HOME", ".config") / "fish/completions" / f"{PROGRAM}.fish"


_PLACES: Final[dict[str, Callable[[Mapping[str, str]], Path]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}


def _next_step(shell: str, path: Path) -> str:
    if shell == "zsh":
        line = f"fpath=({path.parent} $fpath); autoload -Uz compinit && compinit"
        return f"add to ~/.zshrc, in place of a call of compinit: {line}"
    if shell == "bash":
        return (
            f"open a new shell; without the package bash-completion add to ~/.bashrc: source {path}"
        )
    return "open a new shell"
