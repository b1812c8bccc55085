"""The unit of systemd that runs the agent.

`deploy/provider-agent.service` is `system_unit(UnitSettings())`; a test compares them.
"""

import math
from pathlib import Path
from typing import Final

from msgspec import Struct

STOP_MARGIN_S: Final = 30
"""For the acknowledgement of all ends, after the jobs have ended or the drain was stopped."""

ENV_FILE: Final = "agent.env"
"""The file with the service's environment variables, beside `agent.toml`."""


class UnitSettings(Struct, frozen=True, kw_only=True):
    """What differs between units; the defaults are those of `deploy/provider-agent.service`.

    Attributes:
        command: the installed `provider-agent`.
        config: the `agent.toml`.
        drain_timeout_s: `limits.drain_timeout_s`.
        credentials: the name and the source file of each credential.
        config_home: `$XDG_CONFIG_HOME` of a user's service, if it is not the default.
    """

    command: Path = Path("/opt/provider-agent/bin/provider-agent")
    config: Path = Path("/etc/provider-agent/agent.toml")
    drain_timeout_s: float = 300.0
    credentials: tuple[tuple[str, Path], ...] = ()
    config_home: Path | None = None

    @property
    def env_file(self) -> Path:
        """The file with the service's environment variables."""
        return self.config.with_name(ENV_FILE)

    @property
    def stop_timeout_s(self) -> int:
        """The time from SIGTERM to SIGKILL: longer than the drain."""
        return math.ceil(self.drain_timeout_s) + STOP_MARGIN_S


def system_unit(settings: UnitSettings) -> str:
    """Return the unit of a system service, which runs as a dynamic user."""
    return _SYSTEM_HEAD + _service(settings, _SYSTEM_KEY) + _SYSTEM_SANDBOX + _install("multi-user")


def user_unit(settings: UnitSettings) -> str:
    """Return the unit of a service of the user's own systemd instance.

    It runs as the user and uses the user's key. The options that need mount namespaces or
    capabilities are absent: a user instance can set them up only with unprivileged user namespaces,
    which some distributions turn off (systemd.exec(5)).
    """
    home = settings.config_home
    key = "" if home is None else f"Environment=XDG_CONFIG_HOME={home}\n"
    return _USER_HEAD + _service(settings, key) + _USER_SANDBOX + _install("default")


def _service(settings: UnitSettings, key: str) -> str:
    credentials = "".join(
        f"LoadCredential={name}:{source}\n" for name, source in settings.credentials
    )
    drain = f"limits.drain_timeout_s ({settings.drain_timeout_s:g} s)"
    margin = f"# {STOP_MARGIN_S} s longer than {drain}, for the acknowledgement of all ends."
    return f"""\
[Service]
# Ready means running; `provider-agent status` shows whether the agent is connected.
Type=notify
# The event loop feeds the watchdog; systemd restarts an agent whose loop is blocked.
WatchdogSec=60
ExecStart={settings.command} run --config {settings.config}
# Reloads agent.toml; the log lists the keys that are applied and those that need a restart.
ExecReload=/bin/kill -HUP $MAINPID
{key}# API keys, as NAME=value lines. Mode 0600: only systemd reads the file.
EnvironmentFile=-{settings.env_file}
{_CREDENTIALS}{credentials}
Restart=on-failure
RestartSec=5
# 2: invalid configuration; 78: the coordinator rejects this agent. A restart would fail again.
# 75, a stop before every response was complete and delivered, is shown as a failure.
RestartPreventExitStatus=2 78
# 130: stopped immediately by a second signal.
SuccessExitStatus=130
{margin}
TimeoutStopSec={settings.stop_timeout_s}
KillMode=mixed
KillSignal=SIGTERM

"""


def _install(target: str) -> str:
    return f"""
[Install]
WantedBy={target}.target
"""


_SYSTEM_HEAD: Final = """\
# Written by `provider-agent service install`. By hand: copy it to /etc/systemd/system/, then
# `systemctl enable --now provider-agent`; it expects provider-agent in /opt/provider-agent.
# Change settings with `systemctl edit provider-agent`: the next installation replaces this file.

[Unit]
Description=provider-agent: offers the models of local inference servers to a coordinator
# With a wrong clock no certificate verifies. The target waits for the first synchronization if
# systemd-time-wait-sync.service (or chrony-wait.service) is enabled.
Wants=network-online.target time-sync.target
After=network-online.target time-sync.target
# Restart after every crash, without a limit.
StartLimitIntervalSec=0

"""

_USER_HEAD: Final = """\
# Written by `provider-agent service install --user`. Change settings with
# `systemctl --user edit provider-agent`: the next installation replaces this file.

[Unit]
Description=provider-agent: offers the models of local inference servers to a coordinator
# Restart after every crash, without a limit.
StartLimitIntervalSec=0

"""

_SYSTEM_KEY: Final = "Environment=PROVIDER_AGENT_IDENTITY_KEY_PATH=%S/provider-agent/identity.key\n"

_CREDENTIALS: Final = """\
# Better are credentials, which no other process can read: name them in agent.toml by
# api_key_file = "$CREDENTIALS_DIRECTORY/openrouter-key" (or coordinator.token_file), and
# `provider-agent service install` adds their lines. systemd copies them at the start.
#LoadCredential=openrouter-key:/etc/provider-agent/openrouter-key
"""

_SYSTEM_SANDBOX: Final = """\
DynamicUser=yes
StateDirectory=provider-agent
StateDirectoryMode=0700
UMask=0077
AmbientCapabilities=
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
LimitNOFILE=65536
"""

_IN_USER_INSTANCES: Final = frozenset(
    {
        "UMask",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "RestrictAddressFamilies",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "SystemCallArchitectures",
        "SystemCallFilter",
        "SystemCallErrorNumber",
        "LimitNOFILE",
    }
)
"""The options that need neither mount namespaces nor capabilities: process flags and seccomp."""

_USER_SANDBOX: Final = "".join(
    line
    for line in _SYSTEM_SANDBOX.splitlines(keepends=True)
    if line.partition("=")[0] in _IN_USER_INSTANCES
)
