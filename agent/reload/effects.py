"""Decides when each changed setting takes effect in a running agent.

A setting takes effect at once, at the next connection to the coordinator, or at the next start.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct, structs

from provider_agent.agent.config import Config


class ReloadEffect(StrEnum):
    """When a changed setting takes effect; the value is the name of a log field."""

    NOW = "applied"
    NEXT_CONNECTION = "next_connection"
    RESTART = "needs_restart"


EFFECTS: Final[dict[str, ReloadEffect]] = {
    "operator.display_name": ReloadEffect.NOW,
    "operator.wallet": ReloadEffect.NOW,
    "operator.contact_email": ReloadEffect.NOW,
    # A change of these does not close the current link, which may have running jobs.
    "coordinator.url": ReloadEffect.NEXT_CONNECTION,
    "coordinator.fallback_urls": ReloadEffect.NEXT_CONNECTION,
    "coordinator.dialect": ReloadEffect.NEXT_CONNECTION,
    "coordinator.enrollment_code": ReloadEffect.NEXT_CONNECTION,
    "coordinator.allow_insecure": ReloadEffect.NEXT_CONNECTION,
    "coordinator.token_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.ca_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.client_cert_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.client_key_file": ReloadEffect.NEXT_CONNECTION,
    "coordinator.proxy": ReloadEffect.NEXT_CONNECTION,
    "coordinator.coalesce_ms": ReloadEffect.NEXT_CONNECTION,
    # For the coordinator, another key is another agent.
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
    "discovery.liveness_interval_s": ReloadEffect.NOW,
    "schedule.time_zone": ReloadEffect.NOW,
    "schedule.windows": ReloadEffect.NOW,
    # Prometheus and health probes use the old address.
    "observability.prometheus_addr": ReloadEffect.RESTART,
    "observability.log_level": ReloadEffect.NOW,
    # Log collectors expect one format per run.
    "observability.log_format": ReloadEffect.RESTART,
    "observability.ledger_path": ReloadEffect.RESTART,
    "observability.allowed_hosts": ReloadEffect.RESTART,
}
"""The effect of every configuration key."""


class Reload(Struct, frozen=True):
    """The result of a reload.

    Attributes:
        config: the effective settings: the new ones, but with the old value of each key in
            `needs_restart`.
        applied: changed keys that take effect at once.
        next_connection: changed keys that take effect at the next connection.
        needs_restart: changed keys that a running agent cannot apply.
    """

    config: Config
    applied: tuple[str, ...] = ()
    next_connection: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """Whether no setting and no backend has changed."""
        return not (self.applied or self.next_connection or self.needs_restart)


def decide_reload(old: Config, new: Config, *, other_backends: bool = False) -> Reload:
    """Decide when each changed key takes effect.

    Args:
        old: the effective settings.
        new: the new settings, already checked.
        other_backends: whether the backends differ; an API key may have changed in its file while
            the settings did not.
    """
    changed = [key for key in EFFECTS if _value(old, key) != _value(new, key)]
    if other_backends and "backends" not in changed:
        changed.append("backends")

    def changed_keys(effect: ReloadEffect) -> tuple[str, ...]:
        return tuple(key for key in changed if EFFECTS[key] is effect)

    effective = new
    for key in changed_keys(ReloadEffect.RESTART):
        effective = _with_value(effective, key, _value(old, key))
    return Reload(
        effective,
        changed_keys(ReloadEffect.NOW),
        changed_keys(ReloadEffect.NEXT_CONNECTION),
        changed_keys(ReloadEffect.RESTART),
    )


def _value(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    value: object = getattr(config, section)
    return getattr(value, name) if name else value


def _with_value(config: Config, key: str, value: object) -> Config:
    section, _, name = key.partition(".")
    return structs.replace(
        config, **{section: structs.replace(getattr(config, section), **{name: value})}
    )
