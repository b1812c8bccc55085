"""What new settings mean for a running agent. A pure decision.

Each key has its time: at once, at the next connection to the coordinator, or at the next start.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct, structs

from provider_agent.agent.config import Config


class ReloadEffect(StrEnum):
    """When a changed key comes into force; its name in the log."""

    NOW = "applied"
    NEXT_CONNECTION = "next_connection"
    RESTART = "needs_restart"


WHEN: Final[dict[str, ReloadEffect]] = {
    "operator.display_name": ReloadEffect.NOW,
    "operator.wallet": ReloadEffect.NOW,
    "operator.contact_email": ReloadEffect.NOW,
    # A live link is not dropped for these: it has jobs, and who wants it dropped can restart.
    "coordinator.url": ReloadEffect.NEXT_CONNECTION,
    "coordinator.fallback_urls": ReloadEffect.NEXT_CONNECTION,
    "coordinator.enrollment_code": ReloadEffect.NEXT_CONNECTION,
    "coordinator.allow_insecure": ReloadEffect.NEXT_CONNECTION,
    "coordinator.token_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.ca_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.client_cert_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.client_key_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.proxy": ReloadEffect.NEXT_CONNECTION,
    # Another key is another agent.
    "identity.key_path": ReloadEffect.RESTART,
    "backends": ReloadEffect.NOW,
    "pricing.default_input_per_1m": ReloadEffect.NOW,
    "pricing.default_output_per_1m": ReloadEffect.NOW,
    "pricing.models": ReloadEffect.NOW,
    "limits.max_concurrent": ReloadEffect.NOW,
    "limits.max_tokens_per_minute": ReloadEffect.NOW,
    "limits.drain_timeout_s": ReloadEffect.NOW,
    "limits.slow_consumer_s": ReloadEffect.NOW,
    "discovery.interval_s": ReloadEffect.NOW,
    # Whoever scrapes and probes the agent would lose it.
    "observability.prometheus_addr": ReloadEffect.RESTART,
    "observability.log_level": ReloadEffect.NOW,
    # Whatever reads the log expects one form in one run.
    "observability.log_format": ReloadEffect.RESTART,
}
"""Every key of the configuration."""


class Reload(Struct, frozen=True):
    """What came of reading the settings again.

    Attributes:
        config: what is in force now: the new settings, with the old values of `needs_restart`.
        applied: changed keys that are in force at once.
        next_connection: changed keys that the next connection is made with.
        needs_restart: changed keys that the running agent cannot take over.
    """

    config: Config
    applied: tuple[str, ...] = ()
    next_connection: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """Whether the new settings are those in force."""
        return not (self.applied or self.next_connection or self.needs_restart)


def decide_reload(old: Config, new: Config, *, other_backends: bool = False) -> Reload:
    """What each changed key means.

    Args:
        old: the settings in force.
        new: what was read now, checked.
        other_backends: whether the backends are others than before; a key may have changed in its
            file without any change of the settings.
    """
    changed = [key for key in WHEN if _value(old, key) != _value(new, key)]
    if other_backends and "backends" not in changed:
        changed.append("backends")

    def due(when: ReloadEffect) -> tuple[str, ...]:
        return tuple(key for key in changed if WHEN[key] is when)

    in_force = new
    for key in due(ReloadEffect.RESTART):
        in_force = _with_value(in_force, key, _value(old, key))
    return Reload(
        in_force,
        due(ReloadEffect.NOW),
        due(ReloadEffect.NEXT_CONNECTION),
        due(ReloadEffect.RESTART),
    )


def _value(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    found: object = getattr(config, section)
    return getattr(found, name) if name else found


def _with_value(config: Config, key: str, value: object) -> Config:
    section, _, name = key.partition(".")
    return structs.replace(
        config, **{section: structs.replace(getattr(config, section), **{name: value})}
    )
