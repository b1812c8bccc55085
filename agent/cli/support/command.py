"""`provider-agent support-bundle`: one file for a report of a problem, safe to publish."""

import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from provider_agent.adapters.registry import KnownKinds
from provider_agent.agent.cli.settings import (
    NO_COORDINATOR,
    config_option,
    run_async,
    start_logging,
)
from provider_agent.agent.cli.support.anonymizer import (
    Anonymizer,
    environment_secrets,
    file_secrets,
    url_secrets,
    user_name,
)
from provider_agent.agent.cli.support.contents import (
    check_results,
    running_agent,
    settings,
    versions,
)
from provider_agent.agent.config import (
    Config,
    ConfigError,
    LoadedConfig,
    load_config,
    secret_values,
)
from provider_agent.agent.private_file import write_private_file

_ABOUT: Final = """\
A support bundle of provider-agent, made by `provider-agent support-bundle`.

versions.json  the agent, its libraries, Python and the operating system
config.json    the settings and their origins; secrets are masked
check.json     the findings of `provider-agent check --no-completions`
status.json    the state of the running agent
log.txt        its last log lines

Enrollment codes, API keys, private keys, logins in URLs, user names in paths and e-mail addresses
are removed from every file{hosts}. Prompts and answers are never in it.
"""


@click.command(
    "support-bundle", short_help="Collect what a report of a problem needs, in one file."
)
@config_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write. [default: ./provider-agent-support-DATE.zip]",
)
@click.option("--keep-hosts", is_flag=True, help="Keep names and addresses of machines.")
def support_bundle(config_path: Path | None, output: Path | None, keep_hosts: bool) -> None:
    """Collect versions, settings, check results, state and the last log lines in one file.

    The file is safe to publish: secrets, user names in paths, and names and addresses of machines
    are removed. It never contains prompts or answers. Only you can read it (mode 0600).

    It also works with a configuration that is not usable, and while no agent runs. Nothing is sent
    anywhere.
    """
    now = datetime.now(UTC)
    path = output or Path(f"provider-agent-support-{now:%Y%m%dT%H%M%SZ}.zip")
    if path.exists():
        raise click.ClickException(f"{path} exists; remove it, or choose another --output")
    contents, anonymizer = run_async(_collect(config_path, keep_hosts=keep_hosts))
    files = {name: _clean(anonymizer, name, text) for name, text in contents.items()}
    try:
        write_private_file(path, _archive(files, now), replace=False)
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written: {error.strerror}; choose another --output"
        ) from error
    click.echo(f"{path} contains, without secrets:")
    for name, text in files.items():
        click.echo(f"  {name:<14} {len(text.encode()):>8} bytes")
    click.echo("Look through it before you publish it.")


def _clean(anonymizer: Anonymizer, name: str, text: str) -> str:
    if name.endswith(".json"):
        return _json(anonymizer.clean_json(json.loads(text)))
    return anonymizer.clean(text)


async def _collect(
    config_path: Path | None, *, keep_hosts: bool
) -> tuple[dict[str, str], Anonymizer]:
    environ = os.environ
    hosts = ", and names and addresses of machines are replaced" if not keep_hosts else ""
    files = {"about.txt": _ABOUT.format(hosts=hosts), "versions.json": _json(versions())}
    loaded, problem = _load(config_path)
    if loaded is None:
        files["config.json"] = _json({"error": problem})
        return files, _anonymizer(None, environ, keep_hosts=keep_hosts)
    start_logging(loaded, "error")
    errors = {"error": problem} if problem else {}
    files["config.json"] = _json({**errors, **settings(loaded, environ)})
    files["check.json"] = _json(await check_results(loaded, dials=not problem))
    state, files["log.txt"] = await running_agent(loaded)
    files["status.json"] = _json(state)
    return files, _anonymizer(loaded.config, environ, keep_hosts=keep_hosts)


def _load(config_path: Path | None) -> tuple[LoadedConfig | None, str]:
    """Return the settings, if need be without the coordinator's address, and what is wrong."""
    problem = ""
    for overrides in ({}, {"coordinator.url": NO_COORDINATOR}):
        try:
            return load_config(config_path, os.environ, overrides, KnownKinds()), problem
        except ConfigError as error:
            problem = problem or str(error)
    return None, problem


def _anonymizer(
    config: Config | None, environ: Mapping[str, str], *, keep_hosts: bool
) -> Anonymizer:
    secrets = environment_secrets(environ)
    hosts = [socket.gethostname()]
    if config is not None:
        urls = list(_urls(config))
        secrets |= secret_values(config, environ) | file_secrets(config.identity.key_path)
        secrets |= {one for url in urls for one in url_secrets(url)}
        operator = config.operator
        secrets |= {
            one for one in (operator.display_name, operator.wallet, operator.contact_email) if one
        }
        hosts += [host for url in urls if (host := _host_of(url))]
    return Anonymizer(
        secrets,
        [user_name(environ)],
        hosts,
        home=environ.get("HOME", "").rstrip("/"),
        keep_hosts=keep_hosts,
    )


def _urls(config: Config) -> Iterator[str]:
    coordinator = config.coordinator
    yield from (coordinator.url, *coordinator.fallback_urls)
    if coordinator.proxy:
        yield coordinator.proxy
    for backend in config.backends:
        if backend.url:
            yield backend.url


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"


def _archive(files: Mapping[str, str], now: datetime) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, now.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, text.encode(errors="backslashreplace"))
    return data.getvalue()
