"""The steps of a command: files that it writes and removes, and commands that it runs.

A command computes all its steps before the first one, so that `--print` can show them.
"""

import os
import shlex
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from provider_agent.agent.cli.service.host import Host


class StepFailed(Exception):
    """A step failed; the text says which one and why."""


class WriteFile(Struct, frozen=True):
    """Write a file, in place of an existing one unless `keep` is true.

    Attributes:
        path: the file.
        text: its content; no secret.
        mode: its mode.
        keep: whether an existing file stays as it is.
    """

    path: Path
    text: str
    mode: int = 0o644
    keep: bool = False

    def describe(self) -> str:
        """Return the path and the whole content, for `--print`."""
        only = ", unless it exists" if self.keep else ""
        return f"# write {self.path} (mode {self.mode:04o}){only}\n{self.text}"

    def perform(self, host: Host) -> str:
        """Write the file at once, so that no reader sees a part of it.

        Raises:
            OSError: it cannot be written.
        """
        path = host.on_disk(self.path)
        if self.keep and path.exists():
            return f"kept {self.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.text)
        draft.chmod(self.mode)  # the umask may have removed bits
        draft.replace(path)
        return f"wrote {self.path}"


class MakeFolder(Struct, frozen=True):
    """Create a folder that belongs to `owner`; an existing one gets this owner and mode too."""

    path: Path
    mode: int
    owner: str

    def describe(self) -> str:
        """Return the path, its mode and its owner, for `--print`."""
        return f"# create the folder {self.path} (mode {self.mode:04o}, owner {self.owner})\n"

    def perform(self, host: Host) -> str:
        """Create the folder.

        Raises:
            OSError: it cannot be created or changed.
            LookupError: there is no such user.
        """
        path = host.on_disk(self.path)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(self.mode)
        host.chown(path, self.owner)
        return f"created {self.path}"


class ChangeOwner(Struct, frozen=True):
    """Make a user the owner of an existing file."""

    path: Path
    owner: str

    def describe(self) -> str:
        """Return the path and its new owner, for `--print`."""
        return f"# change the owner of {self.path} to {self.owner}\n"

    def perform(self, host: Host) -> str:
        """Change the owner.

        Raises:
            OSError: it cannot be changed.
            LookupError: there is no such user.
        """
        host.chown(host.on_disk(self.path), self.owner)
        return f"changed the owner of {self.path} to {self.owner}"


class RemoveFile(Struct, frozen=True):
    """Remove a file; a missing one is no error."""

    path: Path

    def describe(self) -> str:
        """Return the path, for `--print`."""
        return f"# remove {self.path}\n"

    def perform(self, host: Host) -> str:
        """Remove the file.

        Raises:
            OSError: it cannot be removed.
        """
        host.on_disk(self.path).unlink(missing_ok=True)
        return f"removed {self.path}"


class Run(Struct, frozen=True):
    """Run a command and wait for its end.

    Attributes:
        arguments: the command and its arguments.
        accepted: the exit codes that are no failure.
    """

    arguments: tuple[str, ...]
    accepted: tuple[int, ...] = (0,)

    def describe(self) -> str:
        """Return the command as a line for a shell, for `--print`."""
        return f"{shlex.join(self.arguments)}\n"

    def perform(self, host: Host) -> str:
        """Run the command; its own output says what it did.

        Raises:
            StepFailed: its exit code is not accepted.
            OSError: it cannot be started.
        """
        code = host.run(self.arguments)
        if code not in self.accepted:
            raise StepFailed(f"`{shlex.join(self.arguments)}` failed with exit code {code}")
        return ""


class Step(Protocol):
    """One step of a command."""

    def describe(self) -> str:
        """Return what the step does, for `--print`; it shows no secret."""

    def perform(self, host: Host) -> str:
        """Do it, and return one line that says so, or nothing.

        Raises:
            StepFailed: a command failed.
            OSError: a file or command cannot be used.
            LookupError: there is no such user.
        """
