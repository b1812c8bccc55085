"""A machine with systemd as PID 1, made of namespaces and an overlay of the root file system."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiohttp

ROOT: Final = Path(__file__).parents[2]

LIFETIME_S: Final = 120
"""The kernel ends the machine after this time, also if the test was killed."""

BOOT_S: Final = 30.0

NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})

_SCRIPT: Final = Path(__file__).with_suffix(".sh")
_SYSTEMD: Final = Path("/lib/systemd/systemd")
_CGROUPS: Final = Path("/sys/fs/cgroup/systemd")
_COMMAND: Final = """\
#!/opt/provider-agent/bin/python
import sys
sys.path[:0] = ["/opt/provider-agent/repository/src", "/opt/provider-agent/packages"]
from provider_agent.agent.cli.main import main
sys.exit(main())
"""


def missing() -> str:
    """Return why this machine cannot run another one; "" if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    for command in (
        "unshare",
        "nsenter",
        "chroot",
        "timeout",
        "ip",
        "setpriv",
        "systemctl",
        "journalctl",
    ):
        if shutil.which(command) is None:
            return f"the command {command} is missing"
    if not _SYSTEMD.exists():
        return "systemd is not installed"
    if not _CGROUPS.is_dir():
        return "the cgroup hierarchy name=systemd is not mounted"
    if _interpreter() is None:
        return f"there is no Python {_version()} outside of home folders"
    if not all(path.stat().st_mode & 0o005 == 0o005 for path in (ROOT, _packages())):
        return "other users cannot read the repository or the packages"
    try_overlay = "mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir u w r && "
    try_overlay += "mount -t overlay overlay -o lowerdir=/,upperdir=u,workdir=w r"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "--cgroup", "sh", "-c", try_overlay],
        check=False,
        capture_output=True,
    )
    return "" if tried.returncode == 0 else f"no namespaces or overlay: {tried.stderr.decode()}"


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _interpreter() -> Path | None:
    """Return a Python of this version that a sandboxed service can execute."""
    for path in (Path(f"/usr/bin/python{_version()}"), Path(sys.executable).resolve()):
        if path.exists() and path.parts[1] not in ("root", "home", "tmp", "run"):
            return path
    return None


def _packages() -> Path:
    return Path(aiohttp.__file__).parents[1]


class SystemdMachine:
    """The running machine.

    Attributes:
        pid: that of its PID 1, on this machine.
        root: its root folder, from this machine.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def start(
        self, *command: str | Path, env: Mapping[str, str] = NO_VARIABLES
    ) -> "subprocess.Popen[str]":
        """Start a command as root."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        paths = "/opt/provider-agent/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        defaults = {"PATH": paths, "HOME": "/operator", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [*inside, "--root", "--wd=/", *command],
            env={**defaults, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *command: str | Path, code: int = 0, env: Mapping[str, str] = NO_VARIABLES
    ) -> str:
        """Run a command as root, and return its output; it must exit with `code`."""
        with self.start(*command, env=env) as process:
            try:
                output, _ = process.communicate(timeout=30)
            except BaseException:
                process.kill()  # leaving the block would wait for it
                raise
        assert process.returncode == code, f"{command}: {process.returncode}: {output}"
        return output


@contextmanager
def systemd_machine(folder: Path) -> Iterator[SystemdMachine]:
    """Boot a machine; when the block ends, all its processes and mounts have ended.

    Args:
        folder: an empty folder.
    """
    work, console, cgroup = folder / "machine", folder / "console.log", _CGROUPS / folder.name
    work.mkdir()
    cgroup.mkdir()
    pid_file, notify = Path(f"{work}.pid"), Path(f"{work}.notify")
    notify.mkdir()
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork"]
    enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'  # its cgroup is the machine's root
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(notify / "notify"))
    listening.settimeout(BOOT_S)
    with console.open("w") as log:
        process = subprocess.Popen(
            [
                *("sh", "-c", enter, "sh", cgroup),
                *("timeout", "--signal=KILL", str(LIFETIME_S)),
                *("unshare", *namespaces, "--kill-child", "--propagation=private"),
                *("bash", _SCRIPT, work, ROOT, _packages()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_booted(listening)
        machine = SystemdMachine(int(pid_file.read_text()))
        _install(machine)
        yield machine
    except BaseException:
        print(console.read_text()[-8000:])  # noqa: T201 - shown with the failure
        raise
    finally:
        if process.poll() is None and pid_file.exists():
            # The kernel then kills every process of the namespace.
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        listening.close()
        for path in sorted(cgroup.rglob("*/"), reverse=True):
            if path.is_dir():
                path.rmdir()
        cgroup.rmdir()


def _wait_until_booted(listening: socket.socket) -> None:
    """Wait for the notification that PID 1 of a container sends (systemd's container interface)."""
    while "READY=1" not in listening.recv(4096).decode().split("\n"):
        pass


def _install(machine: SystemdMachine) -> None:
    """Install provider-agent in /opt/provider-agent, as operators do."""
    interpreter = _interpreter()
    assert interpreter is not None
    folder = machine.root / "opt/provider-agent/bin"
    folder.mkdir()
    (folder / "python").symlink_to(interpreter)
    command = folder / "provider-agent"
    command.write_text(_COMMAND)
    command.chmod(0o755)
    (machine.root / "operator").mkdir()
