"""The options that `init` and `setup` share."""

from pathlib import Path

import click

from provider_agent.agent.config.flags import CONFIG_VARIABLE

config_file_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help=f"The file to write. [default: ${CONFIG_VARIABLE}, or ./agent.toml]",
)

ports_option = click.option(
    "--port",
    "ports",
    multiple=True,
    type=click.IntRange(1, 65535),
    help="Search this port instead of the well-known ones. Repeatable.",
)

force_option = click.option("--force", is_flag=True, help="Replace an existing file.")
