"""The machine on which a service is installed, and the error of a missing precondition."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from provider_agent.advised_error import AdvisedError

SERVICE: Final = "provider-agent"
"""The name of the service, of its unit and of its folders."""


class ServiceError(AdvisedError):
    """A precondition is missing: what is wrong, and what to do about it."""


class Host(Struct, frozen=True, kw_only=True):
    """What the commands need of the machine. Tests replace its root, its user and its commands.

    Attributes:
        platform: `sys.platform`.
        uid: the effective user id; 0 is root.
        user: the name of that user.
        home: the home directory; with sudo that of the user who used it.
        environ: the environment of the command.
        command: the installed `provider-agent`.
        interpreter: the Python that executes it, without symbolic links.
        root: the folder below which files are read and written.
        find: finds a command by its name, as `shutil.which`.
        run: runs a list of arguments, with the terminal's output, and returns its exit code.
        succeeds: runs a list of arguments without output; whether its exit code is 0.
        chown: changes the owner of a file to the user with this name.
        has_user: whether a user has this name or this id.
    """

    platform: str
    uid: int
    user: str
    home: Path
    environ: Mapping[str, str]
    command: Path
    interpreter: Path
    find: Callable[[str], str | None]
    run: Callable[[tuple[str, ...]], int]
    succeeds: Callable[[tuple[str, ...]], bool]
    chown: Callable[[Path, str], None]
    has_user: Callable[[str | int], bool]
    root: Path = Path("/")

    @classmethod
    def current(cls) -> Self:
        """Describe this machine and this process."""
        import pwd  # absent on Windows, where main.py must still print its help

        uid = os.geteuid()

        def has_user(key: str | int) -> bool:
            try:
                pwd.getpwnam(key) if isinstance(key, str) else pwd.getpwuid(key)
            except KeyError:
                return False
            return True

        login = os.environ.get("SUDO_USER", "")
        home = Path(pwd.getpwnam(login).pw_dir) if has_user(login) else Path.home()
        return cls(
            platform=sys.platform,
            uid=uid,
            user=pwd.getpwuid(uid).pw_name if has_user(uid) else str(uid),
            home=home,
            environ=os.environ,
            command=own_command(),
            interpreter=Path(sys.executable).resolve(),
            find=shutil.which,
            run=_run,
            succeeds=_succeeds,
            chown=lambda path, name: shutil.chown(path, name),
            has_user=has_user,
        )

    def check_permission(self, *, user: bool) -> None:
        """Check that the user may change a service: with `user` their own, else that of the system.

        Raises:
            ServiceError: the user is not root.
        """
        if not user and self.uid != 0:
            raise ServiceError(
                "a system service needs root",
                f"use `sudo {self.command} service …`, or --user for a service of your own",
            )

    def on_disk(self, path: Path) -> Path:
        """Return where an absolute path of the service is in the file system."""
        return self.root / path.relative_to("/")


def own_command() -> Path:
    """Return the path of `provider-agent`: beside the interpreter in a virtual environment."""
    beside = Path(sys.executable).with_name(SERVICE)
    if beside.is_file():
        return beside
    return Path(shutil.which(SERVICE) or beside)


def _run(arguments: tuple[str, ...]) -> int:
    # The arguments are constants and checked paths; there is no shell.
    return subprocess.run(arguments, check=False).returncode  # noqa: S603


def _succeeds(arguments: tuple[str, ...]) -> bool:
    done = subprocess.run(arguments, check=False, capture_output=True)  # noqa: S603
    return done.returncode == 0
