"""The latest heartbeat of one agent."""

import math
from collections.abc import Callable
from typing import Final

from provider_agent.coordinator.agents.model_report import (
    NO_REPORT,
    LoadOnBackend,
    ModelReport,
    loads_by_model,
    model_report,
    without_excess_models,
)
from provider_agent.protocol.frames import Heartbeat

MAX_INTERVALS: Final = 3
"""Routing ignores a heartbeat that is older than this many intervals."""


class LatestHeartbeat:
    """An agent's latest heartbeat, and what it reports about each model.

    Args:
        interval_s: the interval of heartbeats.
        clock: monotonic, in seconds.

    Attributes:
        frame: the heartbeat; None before the first.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        self.frame: Heartbeat | None = None
        self._interval_s = interval_s
        self._clock = clock
        self._received_at = -math.inf
        self._loads: dict[str, list[LoadOnBackend]] = {}
        self._reports: dict[str, ModelReport] = {}
        """Reports that were requested since the heartbeat arrived."""

    @property
    def age_s(self) -> float | None:
        """Seconds since the heartbeat arrived; None before the first."""
        return None if self.frame is None else self._clock() - self._received_at

    @property
    def current(self) -> Heartbeat | None:
        """The latest heartbeat; None before the first, and if it is too old for `report`."""
        return None if self._is_old else self.frame

    @property
    def _is_old(self) -> bool:
        return self._clock() - self._received_at > self._interval_s * MAX_INTERVALS

    def receive(self, frame: Heartbeat) -> None:
        """Replace the heartbeat.

        The reports are created only by `report`: routing never reads most of them if an agent sends
        many heartbeats.
        """
        self.frame, self._received_at = without_excess_models(frame), self._clock()
        self._loads = loads_by_model(self.frame)
        self._reports = {}

    def report(self, model_id: str) -> ModelReport:
        """Return what the heartbeat reports about a model.

        It is `NO_REPORT` if the heartbeat is too old or does not mention the model.
        """
        if self._is_old:
            return NO_REPORT
        report = self._reports.get(model_id)
        if report is None:
            loads = self._loads.get(model_id)
            if loads is None:
                return NO_REPORT
            report = self._reports[model_id] = model_report(loads)
        return report
