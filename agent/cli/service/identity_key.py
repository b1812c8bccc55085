"""The identity key of a system service: an existing one is kept, or the operator decides.

A system service has a key of its own, in its state folder. Without this check, an agent that the
operator ran by hand before would become another one for the coordinator, which may not admit it.
"""

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from provider_agent.agent.cli.service.host import Host, ServiceError
from provider_agent.agent.cli.service.service_config import ServiceConfig
from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.dialect import USEPOD, dialect_of
from provider_agent.agent.config.files import RUST_AGENT_KEY, config_home, home

_RUST_SERVICE_KEY: Final = Path("/var/lib/usepod-agent/identity.key")
"""The usual key of the Rust agent as a system service, whose user has no home folder."""


class KeyChoice(Struct, frozen=True):
    """What the operator said about the key.

    Attributes:
        source: the key to copy; None: none.
        new: whether the service should create its own key although another one exists.
    """

    source: Path | None = None
    new: bool = False


class CopyKey(Struct, frozen=True):
    """Copy a private key to a place without one."""

    source: Path
    target: Path

    def describe(self) -> str:
        """Return both paths, for `--print`."""
        return f"# copy {self.source} to {self.target} (mode 0600)\n"

    def perform(self, host: Host) -> str:
        """Copy the key; the owner is that of the folder.

        systemd moves a folder that exists before the first start to /var/lib/private, and changes
        the owner of its content.

        Raises:
            OSError: the key cannot be read or written, or another one exists meanwhile.
        """
        content = host.on_disk(self.source).read_bytes()
        target = host.on_disk(self.target)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        folder = target.parent.stat()
        os.chown(target, folder.st_uid, folder.st_gid)
        return f"copied {self.source} to {self.target}"


def key_steps(
    host: Host, found: ServiceConfig, target: Path, choice: KeyChoice
) -> tuple[CopyKey, ...]:
    """Return how to give the service its key; nothing to do if it has one or may create one.

    Args:
        host: the machine.
        found: the service's configuration.
        target: where the service reads its key.
        choice: what the operator said.

    Raises:
        ServiceError: the key to copy does not exist; the service has a key already; or there is a
            key that the service would not use, and the operator has not decided.
    """
    exists = host.on_disk(target).exists()
    if choice.source is not None:
        source = choice.source.absolute()
        if not host.on_disk(source).is_file():
            raise ServiceError(f"{source} does not exist", "name the agent's identity key")
        if exists:
            raise ServiceError(
                f"the service has an identity key already, {target}",
                "install without --key, or move that file away",
            )
        return (CopyKey(source, target),)
    if exists or choice.new:
        return ()
    for key in (found.key_path, *_other_keys(host, found.config.coordinator)):
        if key is not None and host.on_disk(key).is_file():
            raise ServiceError(
                f"the service would not use the identity key {key}, but create another one",
                f"add `--key {key}` to copy it, or --new-key",
            )
    return ()


def _other_keys(host: Host, coordinator: CoordinatorConfig) -> list[Path]:
    """Return where a key may be that was used until now."""
    # With sudo, HOME is usually that of root: `sudo provider-agent init` writes the key there.
    keys = [
        host.home / ".config/provider-agent/identity.key",
        config_home(host.environ) / "identity.key",
    ]
    if dialect_of(coordinator, coordinator.url) == USEPOD:
        keys += [one / RUST_AGENT_KEY for one in (host.home, home(host.environ))]
        keys.append(_RUST_SERVICE_KEY)
    return keys
