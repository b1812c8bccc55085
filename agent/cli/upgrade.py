"""`provider-agent upgrade --check`: whether the package index has a newer release."""

import re
import shutil
import subprocess
import sys
from typing import Final

import click

from provider_agent.agent.cli.installation import (
    Installation,
    this_installation,
    upgrade_command,
)
from provider_agent.agent.cli.settings import SetupError
from provider_agent.agent.version import DISTRIBUTION, agent_version

EXIT_NEWER: Final = 1
"""There is a newer release."""

EXIT_UNKNOWN: Final = 75
"""The index could not be asked now; later it may work (EX_TEMPFAIL)."""

PIP_TIMEOUT_S: Final = 60.0
"""The timeout of pip as a whole; its requests have shorter ones."""

_PIP_OPTIONS: Final = (
    *("index", "versions", DISTRIBUTION),
    *("--disable-pip-version-check", "--no-input", "--no-color", "--retries", "1"),
    *("--timeout", "10"),
)
_LATEST: Final = re.compile(rf"^{DISTRIBUTION} \(([^)\s]+)\)", re.MULTILINE)
_VERSION: Final = re.compile(r"(?:\d+!)?(\d+(?:\.\d+)*)(.*)")
_UNREACHABLE: Final = re.compile(
    r"Retrying|connection|timed out|SSLError|ProxyError", re.IGNORECASE
)
"""Words of pip's messages about requests without a response."""


class _UnknownRelease(click.ClickException):
    exit_code = EXIT_UNKNOWN


@click.command(short_help="Report whether there is a newer release.")
@click.option("--check", is_flag=True, help="Ask the package index. Changes nothing.")
def upgrade(check: bool) -> None:
    """Report whether there is a newer release, and print the command that installs it.

    It asks the package index of pip's own configuration (`pip config list`, PIP_INDEX_URL), and
    changes nothing. The agent never asks by itself.

    \b
    Exit codes:
      0   this is the newest release
      1   there is a newer one
      2   wrong options, or pip is missing
      75  the index could not be asked, or has no release
    """
    if not check:
        raise click.UsageError(
            "provider-agent does not change its own installation: add --check, which prints the "
            "command that does"
        )
    installation = this_installation()
    latest, installed = _latest_release(installation), agent_version()
    if not is_newer(latest, installed):
        click.echo(f"provider-agent {installed} is the newest release")
        return
    click.echo(f"provider-agent {latest} is available; this is {installed}")
    click.echo(f"to upgrade:  {upgrade_command(installation)}")
    click.echo("to lose no job, see docs/operations/update.md")
    sys.exit(EXIT_NEWER)


def is_newer(latest: str, installed: str) -> bool:
    """Whether a release is newer than a version, which may be a pre-release (PEP 440)."""
    release, _ = _parts(latest)
    own, suffix = _parts(installed)
    if release != own:
        return release > own
    return bool(re.match(r"\.?(?:a|b|rc|dev)", suffix))


def _parts(version: str) -> tuple[tuple[int, ...], str]:
    found = _VERSION.match(version)
    if found is None:
        return (), version
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()  # 1.0 is 1
    return tuple(numbers), found[2]


def _latest_release(installation: Installation) -> str:
    try:
        # Not `--json`, which pip has only since 25.
        done = subprocess.run(  # noqa: S603 - no shell; every argument is ours
            [*_pip(installation), *_PIP_OPTIONS],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _UnknownRelease(_no_answer(f"within {PIP_TIMEOUT_S:.0f} s")) from error
    except OSError as error:
        raise SetupError(f"pip cannot be started: {error.strerror}") from error
    if found := _LATEST.search(done.stdout):
        return found[1]
    # Not what pip printed: it may contain the login of an index.
    if _UNREACHABLE.search(done.stderr):
        raise _UnknownRelease(_no_answer("now"))
    raise _UnknownRelease(
        f"the newest release is unknown: pip's package index has no {DISTRIBUTION} for this "
        "Python; `pip config list` shows which index that is"
    )


def _pip(installation: Installation) -> list[str]:
    """Return the command of pip: that of this environment, else one on the search path.

    Raises:
        SetupError: pip is not installed.
    """
    if installation.has_pip:
        return [installation.python, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise SetupError(
            "pip is not installed here, so the package index cannot be asked; on a machine with "
            f"pip, run `pip index versions {DISTRIBUTION}`. To upgrade: "
            f"{upgrade_command(installation)}"
        )
    return [found]


def _no_answer(when: str) -> str:
    return (
        f"the newest release is unknown: the package index did not answer {when}; check the "
        "network, the proxy (HTTPS_PROXY) and `pip config list`"
    )
