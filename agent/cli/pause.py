"""`provider-agent pause` and `provider-agent resume`."""

import os
import re
import sys
from pathlib import Path
from typing import Final

import click

from provider_agent.agent.cli.control_client import find_signer, send_command
from provider_agent.agent.cli.service.key_place import SERVICE_KEYS
from provider_agent.agent.cli.settings import run_async, with_local_config
from provider_agent.agent.cli.status_client import NoAgent
from provider_agent.agent.cli.terminal import print_json, visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.control.commands import MAX_PAUSE_S, Command, Reply
from provider_agent.agent.control.pause_store import PauseStore
from provider_agent.agent.identity.key_lock import is_key_locked

_DURATION: Final = re.compile(
    r"(?:(?P<d>\d{1,6})d)?(?:(?P<h>\d{1,6})h)?(?:(?P<m>\d{1,6})m)?", re.ASCII
)
_UNIT_S: Final = {"m": 60, "h": 3600, "d": 24 * 3600}


def _seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = _DURATION.fullmatch(value)
    parts = match.groupdict(0) if match else {}
    seconds = sum(int(number) * _UNIT_S[unit] for unit, number in parts.items())
    if not 0 < seconds <= MAX_PAUSE_S:
        raise click.BadParameter(
            "expected minutes, hours or days, such as 30m, 1h30m or 1d, at most 366d, "
            f"got {value!r}"
        )
    return float(seconds)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(short_help="Stop serving for a while, without a restart.")
@click.argument("backend", required=False)
@click.option(
    "--for",
    "for_s",
    callback=_seconds,
    metavar="TIME",
    help="End the pause after 30m, 1h30m or 1d.",
)
@_json_option
@with_local_config
def pause(loaded: LoadedConfig, backend: str | None, for_s: float | None, as_json: bool) -> None:
    """Pause the running agent, or one BACKEND (its id or kind, see `status`).

    The agent takes no new jobs, finishes those that run, and disconnects until `resume`, or until
    the end of --for. Of a paused backend only the offers are withdrawn. A pause survives a restart.

    The command works only on the agent's own machine, and needs the agent's key: for the system's
    service, use sudo. Exits with 0 if the agent or the backend is paused now.
    """
    _send(loaded, Command("pause", backend, for_s), as_json=as_json)


@click.command(short_help="End a pause.")
@click.argument("backend", required=False)
@_json_option
@with_local_config
def resume(loaded: LoadedConfig, backend: str | None, as_json: bool) -> None:
    """End the pause of the running agent, or of one BACKEND.

    The schedule still holds: outside its windows the agent stays disconnected, and the command
    prints when it serves again.

    Without BACKEND, paused backends stay paused; the command names them.

    Exits with 0 if the agent, or BACKEND, is no longer paused.
    """
    _send(loaded, Command("resume", backend), as_json=as_json)


def _send(loaded: LoadedConfig, command: Command, *, as_json: bool) -> None:
    config = loaded.config
    address, key_path = config.observability.prometheus_addr, config.identity.key_path
    # As in `WantedAgent.of`: a key that the environment names, as in a container, decides alone.
    only = loaded.origins["identity.key_path"].startswith("environment")
    service_key = None if only else SERVICE_KEYS.get(sys.platform)

    async def send() -> Reply:
        signer = await find_signer(address, key_path, service_key, command.action)
        if signer.note:
            click.echo(signer.note, err=True)
        return await send_command(signer, command)

    try:
        reply = run_async(send())
    except NoAgent as error:
        paused = _stored_pauses(key_path, service_key) if command.action == "resume" else ""
        raise click.ClickException(f"{error}{paused}") from error
    if as_json:
        print_json(reply)
    elif reply.ok:
        click.echo(visible(reply.message))
    else:
        raise click.ClickException(visible(reply.message))
    sys.exit(0 if reply.ok else 1)


def _stored_pauses(*key_paths: Path | None) -> str:
    """Return that the stopped agent with one of these keys is paused; "" if none is.

    The command does not end the pause itself: if it runs as root, it would write a file that the
    agent cannot read.
    """
    for path in filter(None, key_paths):
        store = PauseStore(path)
        if os.access(store.path, os.R_OK) and not is_key_locked(path):
            names = ", ".join(target or "the agent" for target in sorted(store.load()))
            return (
                f" It stays paused after its start ({names}): start it, then repeat this command."
            )
    return ""
