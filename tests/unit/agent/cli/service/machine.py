"""A machine with a root folder of its own, which records the commands that it is asked to run."""

from pathlib import Path

from click.testing import CliRunner, Result

from provider_agent.agent.cli.main import main
from provider_agent.agent.cli.service.host import Host

SECRET = "sk-SECRET-OF-THE-OPERATOR"
CONFIG = """\
[coordinator]
url = "wss://coordinator.example/provider/connect"

[[backends]]
kind = "echo"
"""


class Machine:
    """A machine of `platform`, with an installed agent, a configuration and a service manager.

    Attributes:
        root: its root folder.
        uid: the user that invokes the commands.
        commands: the commands that were run.
        missing: the commands that are not installed.
        exit_codes: the exit code of a command, by one of its arguments; 0 for others.
        loaded: whether launchd has loaded the job.
        owners: the new owner of each path whose owner was changed.
        users: the names and ids that exist.
    """

    def __init__(self, root: Path, platform: str = "linux", uid: int = 0) -> None:
        self.root = root
        self.platform = platform
        self.uid = uid
        self.environ = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000"}
        self.command = Path("/opt/provider-agent/bin/provider-agent")
        self.interpreter = Path("/usr/bin/python3")
        self.commands: list[tuple[str, ...]] = []
        self.missing: set[str] = set()
        self.exit_codes: dict[str, int] = {}
        self.loaded = False
        self.owners: dict[str, str] = {}
        self.users: set[str | int] = {"root", 0, 400}
        self.write(str(self.command), "#!/bin/sh\n")
        self.write("/etc/provider-agent/agent.toml", CONFIG)
        self.write("/home/ada/.config/provider-agent/agent.toml", CONFIG)
        for folder in ("/run/systemd/system", "/run/user/1000/systemd"):
            (root / folder[1:]).mkdir(parents=True)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(self.root).parents:
            (self.root / folder).chmod(0o755)
        file.write_text(text, "utf-8")
        file.chmod(mode)

    def read(self, path: str) -> str:
        return (self.root / path[1:]).read_text("utf-8")

    def mode(self, path: str) -> int:
        return (self.root / path[1:]).stat().st_mode & 0o777

    def exists(self, path: str) -> bool:
        return (self.root / path[1:]).exists()

    def files(self) -> dict[str, str]:
        """Every file and its content."""
        return {
            f"/{file.relative_to(self.root)}": file.read_text("utf-8")
            for file in self.root.rglob("*")
            if file.is_file()
        }

    def invoke(self, *arguments: str) -> Result:
        """Run `provider-agent service` with these arguments on this machine."""
        result = CliRunner().invoke(main, ["service", *arguments], obj=self.host())
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    def host(self) -> Host:
        return Host(
            platform=self.platform,
            uid=self.uid,
            user="ada" if self.uid else "root",
            home=Path("/home/ada"),
            environ=self.environ,
            command=self.command,
            interpreter=self.interpreter,
            find=lambda name: None if name in self.missing else f"/usr/bin/{name}",
            run=self._run,
            succeeds=lambda _: self.loaded,
            chown=lambda path, name: self.owners.update({f"/{path.relative_to(self.root)}": name}),
            has_user=lambda key: key in self.users,
            root=self.root,
        )

    def _run(self, arguments: tuple[str, ...]) -> int:
        self.commands.append(arguments)
        return next((self.exit_codes[one] for one in arguments if one in self.exit_codes), 0)


def install_for_ada(desktop: Machine, *options: str) -> tuple[int, str]:
    """Install the service of the user ada; return exit code and output."""
    config = "/home/ada/.config/provider-agent/agent.toml"
    result = desktop.invoke("install", "--user", "--config", config, *options)
    return result.exit_code, result.output
