"""The coordinator's messages to the operator: notices, offered models without jobs, its drain."""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.agent.link.sanitize import sanitize
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Drain, Notice, RoutingStatus

log = EventLogger(__name__)

MAX_NOTICES: Final = 16
"""The most notices kept, one for each pair of code and model; the oldest is dropped."""

MAX_UNROUTABLE: Final = 100
"""Unroutable models that are kept with their reasons; the rest is only counted."""

MAX_LOGGED_PER_MINUTE: Final = 10
"""A flood of notices must not flood the log."""

_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}
_UNKNOWN_SEVERITY: Final = "info"
_LOGGED_REASONS: Final = 5
"""The most reasons in one log record, one for each code."""


class ReceivedNotice(Struct, frozen=True, kw_only=True):
    """A notice, with its texts safe to print.

    Attributes:
        code: a short name.
        severity: `info`, `warning` or `error`.
        message: human-readable.
        model_id: the model that it concerns; None: the agent as a whole.
        age_s: seconds since it last arrived.
        count: how often it arrived while it was kept.
    """

    code: str
    severity: str
    message: str
    model_id: str | None
    age_s: float
    count: int = 1


class UnroutableOffer(Struct, frozen=True):
    """An offered model that receives no jobs, with its texts safe to print.

    Attributes:
        model_id: the model.
        code: why, as a short name.
        message: why, human-readable.
    """

    model_id: str
    code: str
    message: str


class Routing(Struct, frozen=True, kw_only=True):
    """The coordinator's answer to the agent's offers.

    Attributes:
        revision: the revision of the offers that it answers.
        unroutable_count: how many offered models receive no jobs.
        unroutable: those models, `MAX_UNROUTABLE` at most.
    """

    revision: int
    unroutable_count: int
    unroutable: list[UnroutableOffer]


class CoordinatorMessages:
    """Keeps and logs the coordinator's messages to the operator.

    Args:
        on_notice: called with the severity of each notice.
        clock: monotonic, in seconds.

    Attributes:
        routing: the latest answer to the agent's offers; None before the first one of a connection.
        draining: whether the coordinator is stopping: from its `Drain` until the connection ends.
    """

    def __init__(self, on_notice: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.routing: Routing | None = None
        self.draining = False
        self._on_notice = on_notice
        self._clock = clock
        self._notices: OrderedDict[tuple[str, str | None], tuple[float, ReceivedNotice]] = (
            OrderedDict()
        )
        self._logged_at: deque[float] = deque(maxlen=MAX_LOGGED_PER_MINUTE)

    def __repr__(self) -> str:
        return f"<CoordinatorMessages notices={len(self._notices)} routing={self.routing}>"

    def notices(self) -> list[ReceivedNotice]:
        """Return the kept notices, the latest first."""
        now = self._clock()
        return [replace(notice, age_s=now - at) for at, notice in reversed(self._notices.values())]

    def receive_notice(self, frame: Notice) -> None:
        """Keep a notice. Log it, within `MAX_LOGGED_PER_MINUTE`, unless it repeats a kept one."""
        severity = frame.severity if frame.severity in _LEVELS else _UNKNOWN_SEVERITY
        self._on_notice(severity)
        notice = ReceivedNotice(
            code=sanitize(frame.code),
            severity=severity,
            message=sanitize(frame.message),
            model_id=None if frame.model_id is None else sanitize(frame.model_id),
            age_s=0.0,
        )
        key = (notice.code, notice.model_id)
        _, kept = self._notices.pop(key, (0.0, None))
        count = 1 if kept is None else kept.count + 1
        self._notices[key] = self._clock(), replace(notice, count=count)
        if len(self._notices) > MAX_NOTICES:
            self._notices.popitem(last=False)
        if kept is None or replace(kept, count=1) != notice:
            self._log(notice)

    def _log(self, notice: ReceivedNotice) -> None:
        now, logged_at = self._clock(), self._logged_at
        if len(logged_at) == MAX_LOGGED_PER_MINUTE and now - logged_at[0] < 60.0:
            return
        logged_at.append(now)
        fields: dict[str, object] = {"code": notice.code, "reason": notice.message}
        if notice.model_id is not None:
            fields["model"] = notice.model_id
        log.log(_LEVELS[notice.severity], "notice from the coordinator", **fields)

    def receive_routing(self, frame: RoutingStatus) -> None:
        """Replace the routing of the offers, and log a change."""
        routing = Routing(
            revision=frame.revision,
            unroutable_count=len(frame.unroutable),
            unroutable=[
                UnroutableOffer(sanitize(one.model_id), sanitize(one.code), sanitize(one.message))
                for one in frame.unroutable[:MAX_UNROUTABLE]
            ],
        )
        before, self.routing = self.routing, routing
        old = before.unroutable if before is not None else []
        if routing.unroutable and routing.unroutable != old:
            # Reversed, so that each code keeps its first message.
            reasons = {one.code: one.message for one in reversed(routing.unroutable)}
            log.warning(
                "offered models receive no jobs",
                models=routing.unroutable_count,
                first=routing.unroutable[0].model_id,
                reasons=[f"{code}: {text}" for code, text in reasons.items()][-_LOGGED_REASONS:],
            )
        elif old and not routing.unroutable:
            log.info("all offered models can receive jobs")

    def receive_drain(self, frame: Drain) -> None:
        """Note and log that the coordinator is stopping: it sends no new jobs."""
        self.draining = True
        log.info(
            "coordinator draining",
            reason=frame.reason,
            reconnect_after_ms=frame.reconnect_after_ms,
        )

    def link_ended(self) -> None:
        """Forget routing and drain: both belong to the connection that has ended."""
        self.routing = None
        self.draining = False
