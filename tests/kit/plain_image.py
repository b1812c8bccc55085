"""Runs the steps of a Dockerfile without a container engine, in a plain folder.

An absolute path of the image, such as `/opt/x`, becomes `ROOT/opt/x`. Each stage runs at the same
`ROOT`, because environments of Python contain their own path; a finished stage is moved aside.
Supported is what the project's Dockerfile uses; another instruction is an error. A step that begins
with `apt-get` is left out: this machine has its own packages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

IMAGE_PATHS: Final = re.compile(r"(?<![\w.$/-])/(?=(?:build|dist|etc|opt|src|var)\b)")
"""Where a path of the image begins in a step."""

METADATA: Final = frozenset({"ARG", "LABEL", "STOPSIGNAL", "VOLUME"})

HOST_VARIABLES: Final = re.compile(r"(?i)PIP_|.*_PROXY$|SSL_CERT_|REQUESTS_CA_BUNDLE$")
"""Variables of this machine that pip needs to reach its index."""


class StepError(AssertionError):
    """A step of the Dockerfile failed."""


@dataclass
class PlainImage:
    """What the last stage has set, and the folder that holds its files."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)
    user: int | None = None
    workdir: str = "/"

    def translate(self, text: str) -> str:
        """Replace the image's absolute paths."""
        return IMAGE_PATHS.sub(f"{self.root}/", text)

    def folder(self, path: str) -> Path:
        """Return the folder of a path of the image, relative to its working directory."""
        return self.root / os.path.join(self.workdir, path).lstrip("/")  # noqa: PTH118


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the name and arguments of each instruction, with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name, rest) for name, rest in pairs]


def build_context(source: Path, target: Path) -> Path:
    """Copy what `.dockerignore` leaves of `source`, as an engine sends it."""
    patterns = (source / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [rule for rule in patterns if rule and not rule.startswith("#")]
    tops = [path for path in source.iterdir() if not _is_ignored(Path(path.name), rules)]
    paths = (path for top in tops for path in (top, *(top.rglob("*") if top.is_dir() else ())))
    for path in paths:
        name = path.relative_to(source)
        if (path.is_symlink() or path.is_file()) and not _is_ignored(name, rules):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name, follow_symlinks=False)
    return target


def _is_ignored(name: Path, rules: list[str]) -> bool:
    """The last matching rule decides; a rule also covers everything below what it names."""
    covering = [name, *name.parents][:-1]
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").rstrip("/")
        if pattern.startswith("**/"):
            matches = any(fnmatch(part, pattern[3:]) for part in name.parts)
        else:
            matches = any(fnmatch(str(path), pattern) for path in covering)
        if matches:
            ignored = not rule.startswith("!")
    return ignored


def build_plain_image(source: Path, folder: Path) -> PlainImage:
    """Run every step of `source/Dockerfile`.

    Raises:
        StepError: a step failed; the message has its text and its output.
    """
    context = build_context(source, folder / "context")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    python.write_text(f'#!/bin/sh\nexec {base} "$@"\n', "utf-8")
    python.chmod(0o755)
    stages: dict[str, Path] = {}
    image = PlainImage(folder / "root")
    current = ""
    for name, rest in instructions((source / "Dockerfile").read_text(encoding="utf-8")):
        if name == "FROM":
            if current:
                stages[current] = image.root.rename(folder / current)
            current = rest.partition(" AS ")[2]
            image = PlainImage(folder / "root")
            image.root.mkdir()
            image.environment["PATH"] = f"{python.parent}:{os.environ['PATH']}"
        else:
            _run_step(image, name, rest, context, stages)
    return image


def _run_step(
    image: PlainImage, name: str, rest: str, context: Path, stages: dict[str, Path]
) -> None:
    if name == "RUN":
        if not rest.startswith("apt-get "):
            _run(image, rest)
    elif name == "COPY":
        _copy(image, rest, context, stages)
    elif name == "ENV":
        for variable, value in (pair.split("=", 1) for pair in rest.split()):
            text = image.translate(value)
            image.environment[variable] = text.replace("$PATH", image.environment["PATH"])
    elif name == "WORKDIR":
        image.workdir = rest
        image.folder("").mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        image.user = int(rest.partition(":")[0])
    elif name == "ENTRYPOINT":
        image.entrypoint = json.loads(rest)
    elif name == "CMD":
        image.command = json.loads(rest)
    elif name == "HEALTHCHECK":
        image.health_check = json.loads(rest.partition("CMD")[2])
    elif name not in METADATA:
        raise StepError(f"{name}: unknown to tests/kit/plain_image.py")


def _run(image: PlainImage, step: str) -> None:
    script = image.translate(step)
    if os.geteuid() != 0:
        script = re.sub(r"--(owner|group)=\d+", "", script)
    host = {name: text for name, text in os.environ.items() if HOST_VARIABLES.match(name)}
    # pip's cache and the omitted bytecode save time; the image has no use for either.
    pip = {"PIP_NO_CACHE_DIR": "0", "PIP_NO_COMPILE": "1", "HOME": str(Path.home())}
    environment = {**host, **image.environment, **pip}
    ran = subprocess.run(
        ["/bin/sh", "-ec", script],
        cwd=image.folder(""),
        env=environment,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise StepError(f"RUN {step}\nexits with {ran.returncode}\n{ran.stdout}{ran.stderr}")


def _copy(image: PlainImage, rest: str, context: Path, stages: dict[str, Path]) -> None:
    *sources, target = rest.split()
    base = context
    if sources[0].startswith("--from="):
        base = stages[sources.pop(0).partition("=")[2]]
    for source in sources:
        path = base / source.lstrip("/")
        if not path.exists():
            raise StepError(f"COPY {rest}\n{source} is missing in {base.name}")
        into = image.folder(target)
        if path.is_dir():
            shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
            continue
        if target.endswith("/") or len(sources) > 1:
            into = into / path.name
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, into)
