"""The property list with which launchd runs the agent (launchd.plist(5))."""

import plistlib
from pathlib import Path
from typing import Final

from provider_agent.agent.cli.service.host import SERVICE
from provider_agent.agent.cli.service.unit import UnitSettings

SERVICE_USER: Final = "_provideragent"
"""The user of a system service. sysadminctl requires `_` at the start of a role account's name."""

OPEN_FILES: Final = 65536
"""As `LimitNOFILE` of the unit; the default soft limit of launchd is 256."""

THROTTLE_S: Final = 30
"""The least time between two starts: launchd restarts also after the exit codes 2 and 78."""


def property_list(settings: UnitSettings, log: Path, state: Path | None) -> str:
    """Return the property list as XML.

    Args:
        settings: command, configuration and stop timeout.
        log: the file that receives the agent's log.
        state: the folder of the identity key of a system service; None for a user's own service,
            which uses the user's key.
    """
    job: dict[str, object] = {
        "Label": SERVICE,
        "ProgramArguments": [str(settings.command), "run", "--config", str(settings.config)],
        "RunAtLoad": True,
        # Always, so that SIGTERM restarts the agent after its drain. `bootout` stops it.
        "KeepAlive": True,
        "ThrottleInterval": THROTTLE_S,
        "ExitTimeOut": settings.stop_timeout_s,
        # Without the limits on CPU and I/O that launchd gives to other types.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "HardResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "Umask": 0o077,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    if state is not None:
        job["UserName"] = SERVICE_USER
        job["WorkingDirectory"] = str(state)
        job["EnvironmentVariables"] = {
            "HOME": str(state),
            "PROVIDER_AGENT_IDENTITY_KEY_PATH": str(state / "identity.key"),
        }
    elif settings.config_home is not None:
        job["EnvironmentVariables"] = {"XDG_CONFIG_HOME": str(settings.config_home)}
    return plistlib.dumps(job, sort_keys=False).decode()
