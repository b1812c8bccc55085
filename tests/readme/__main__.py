"""`python -m tests.readme`: follow the README in a clean copy and an empty environment.

An Ollama with the model of the README runs on its well-known port. pip installs from the network,
or from its cache. Exit code 1: a command failed, or printed something other than the README shows.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from tests.readme.console import Command, ConsoleError, console_blocks, follow
from tests.readme.ollama import PORT, ReadmeOllama

ROOT: Final = Path(__file__).parents[2]
WELL_KNOWN_PORTS: Final = (8000, 8080, 9931, 1234, PORT, 30000)
USED_PORTS: Final = (*WELL_KNOWN_PORTS, 8700)
PIP: Final = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Prefixes of the only variables that are kept: how pip reaches its index on this machine."""


def quick_start(text: str) -> list[list[Command]]:
    """Return the console blocks of the README's quick start."""
    section = text.partition("\n## Quick start\n")[2].partition("\n## ")[0]
    return console_blocks(section)


def copy_project(target: Path) -> None:
    """Copy the files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in listed.decode().split("\0"):
        source, copy = ROOT / name, target / name
        if name and source.is_symlink():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(source.readlink())
        elif name and source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def empty_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a new user, whose `python3` is the one that runs this test."""
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    python = folder / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).resolve()}" "$@"\n')
    python.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(PIP)}
    return {
        "PIP_CACHE_DIR": str(Path("~/.cache/pip").expanduser()),
        **kept,
        "HOME": str(folder / "home"),
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
    }


def taken_ports() -> list[int]:
    """Return the ports of the README on which something already listens."""
    taken = []
    for port in USED_PORTS:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                taken.append(port)
    return taken


async def main() -> int:
    """Follow the README; return the exit code."""
    if taken := taken_ports():
        click.echo(f"in use, and the README needs them: ports {taken} of 127.0.0.1", err=True)
        return 1
    blocks = quick_start((ROOT / "README.md").read_text(encoding="utf-8"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder / "provider-agent")
        async with ReadmeOllama() as ollama:
            try:
                await follow(blocks, folder / "provider-agent", empty_environment(folder))
            except ConsoleError as error:
                click.echo(f"\nThe README is wrong:\n\n{error}", err=True)
                return 1
            if not any(job.operation == "chat" for job in ollama.jobs):
                click.echo("The README is wrong: it sends no request to the model", err=True)
                return 1
    click.echo(f"followed the README to an answer in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
