"""Two machines on one: network namespaces that a cable (veth) connects. Needs root and iproute2."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

IP = shutil.which("ip")


class Machine(NamedTuple):
    """A network namespace.

    Attributes:
        name: of the namespace.
        ipv4: its address.
        ipv6: its other address, if the kernel has IPv6.
    """

    name: str
    ipv4: str
    ipv6: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What comes before a command that runs on this machine."""
        return (IP or "ip", "netns", "exec", self.name)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Create two machines that reach only each other; remove them on exit.

    Raises:
        OSError: this system does not allow it.
    """
    if IP is None:
        raise OSError("iproute2 is not installed")
    tag = f"pa{os.getpid()}"
    first, second = (
        Machine(f"{tag}-{number}", f"10.78.0.{number}", f"fd78::{number}") for number in (1, 2)
    )
    try:
        _ip("netns", "add", first.name)
        _ip("netns", "add", second.name)
        peer = ("peer", "name", "cable", "netns", second.name)
        _ip("-n", first.name, "link", "add", "cable", "type", "veth", *peer)
        for machine in (first, second):
            _ip("-n", machine.name, "address", "add", f"{machine.ipv4}/24", "dev", "cable")
            _ip("-n", machine.name, "address", "add", f"{machine.ipv6}/64", "dev", "cable", "nodad")
            _ip("-n", machine.name, "link", "set", "lo", "up")
            _ip("-n", machine.name, "link", "set", "cable", "up")
        yield first, second
    finally:
        for machine in (first, second):
            subprocess.run([IP, "netns", "delete", machine.name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    result = subprocess.run(
        [IP or "ip", *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
