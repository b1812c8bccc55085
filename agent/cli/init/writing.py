"""What `init` and `setup` share: the place of the file, its key, and writing both."""

import errno
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import click

from provider_agent.agent.cli.init.document import Answers, OfferedServer, render
from provider_agent.agent.cli.settings import SetupError
from provider_agent.agent.config.files import expand, find_file
from provider_agent.agent.config.flags import CONFIG_VARIABLE
from provider_agent.agent.identity.key import Identity, IdentityError, load_or_create
from provider_agent.agent.private_file import resolved, write_private_file
from provider_agent.protocol.limits import KIB

_USUAL_BYTES: Final = 16 * KIB
"""More than the file usually has."""


def settings_path(config_path: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the file to write: of `--config`, else of the variable, else `./agent.toml`."""
    return config_path or expand(environ.get(CONFIG_VARIABLE) or "agent.toml", environ)


def refuse_existing(path: Path) -> None:
    """Raise a `SetupError` if the file exists."""
    if os.path.lexists(path):
        raise _exists(path)


def can_ask(*, yes: bool) -> bool:
    """Whether the command may ask questions: there is a terminal, and no `--yes`."""
    # Standard input is None if the caller has closed it.
    return not yes and sys.stdin is not None and sys.stdin.isatty()


def checked_key_path(text: str) -> str:
    """Return the path for the file; a relative one would depend on the directory of `run`.

    Raises:
        SetupError: it is not printable.
    """
    if not text.isprintable():
        raise SetupError("--key-path: it contains characters that cannot be printed; correct it")
    if not text or text.startswith("~/"):
        return text
    return str(Path(text).absolute())


def own_key(path: Path, *, rust_form: bool = False) -> Identity:
    """Return the key at `path`, which is created if it does not exist: see `load_or_create`.

    Raises:
        SetupError: it is damaged, or cannot be read or written.
    """
    try:
        return load_or_create(path, rust_form=rust_form)
    except IdentityError as error:
        raise SetupError(str(error)) from error


def make_folder(path: Path) -> None:
    """Create the folder of the file, and check that the file can be written.

    Raises:
        SetupError: that is not possible.
    """
    try:
        target = resolved(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=target.parent) as file:
            file.write(bytes(_USUAL_BYTES))
    except OSError as error:
        raise _unwritable(path, error) from error


def write_settings(path: Path, answers: Answers, *, force: bool) -> None:
    """Write the file, which only its owner can read.

    Raises:
        SetupError: it exists and `force` is false, or it cannot be written.
    """
    try:
        write_private_file(path, render(answers).encode(), replace=force)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def print_missing_keys(servers: Iterable[OfferedServer], environ: Mapping[str, str]) -> None:
    """Name each variable of a server's key that is not set."""
    for name in sorted({offered.key_variable for offered in servers} - {""}):
        if not environ.get(name):
            click.echo(f"\nA server requires a key: export {name}=…")


def config_argument(path: Path, environ: Mapping[str, str]) -> str:
    """Return the option with which other commands read the file; "" if they find it anyway."""
    return "" if find_file(None, environ) == path else f" --config {shlex.quote(str(path))}"


def _exists(path: Path) -> SetupError:
    return SetupError(f"{path}: the file exists; edit it, or replace it with --force")


def _unwritable(path: Path, error: OSError) -> SetupError:
    advice = "name another file with --config"
    return SetupError(f"{path}: cannot be written: {error.strerror}; {advice}")
