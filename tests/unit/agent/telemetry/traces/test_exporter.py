import logging
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.agent.telemetry.traces.exporter import SpanSender, Trace, TraceExporter
from provider_agent.agent.telemetry.traces.settings import TraceSettings
from provider_agent.protocol.frames import JobHeader, JobResult, Usage

ID = b"j" * 16
WAIT_S = 20.0


class FakeSender:
    """Records traces; `problems` are the results of the next calls, then "".

    Attributes:
        gate: `send` waits until this event is set; it is set at first. `close` sets it.
        sending: set by each call of `send`.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = list(problems)
        self.batches: list[Sequence[Trace]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.sending = threading.Event()
        self.closed = False

    def send(self, traces: Sequence[Trace]) -> str:
        self.sending.set()
        assert self.gate.wait(WAIT_S)
        self.batches.append(traces)
        return self.problems.pop(0) if self.problems else ""

    def close(self) -> None:
        self.closed = True
        self.gate.set()


def record() -> JobRecord:
    timeline = JobTimeline(JobHeader(ID, "m", "openai", 1, 60_000), lambda: 0.0)
    return JobRecord("openai", "", JobResult(ID, 0, Usage(), "", 0, None), None, timeline=timeline)


def exporter(
    sender: SpanSender, *, max_queue: int = 100, max_batch: int = 1, flush_s: float = WAIT_S
) -> tuple[TraceExporter, Counter[str]]:
    counts: Counter[str] = Counter()
    settings = TraceSettings(
        "http://user:secret@collector:4318", 60.0, max_queue, max_batch, flush_s
    )
    return TraceExporter(settings, lambda: sender, counts), counts


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.INFO]


def test_stop_exports_what_is_queued_in_batches() -> None:
    sender = FakeSender()
    traces, counts = exporter(sender, max_batch=2)
    for _ in range(5):
        traces.add(record())
    traces.start()
    traces.stop()

    assert [len(batch) for batch in sender.batches] == [2, 2, 1]
    assert counts == {"exported": 5}
    assert sender.closed


def test_traces_that_do_not_fit_the_queue_are_dropped_and_counted() -> None:
    sender = FakeSender()
    sender.gate.clear()
    traces, counts = exporter(sender, max_queue=4)
    traces.start()
    for _ in range(2):
        traces.add(record())
    assert sender.sending.wait(WAIT_S)  # half full: exported at once
    for _ in range(6):
        traces.add(record())
    sender.gate.set()
    traces.stop()

    # One trace was in the request, and four in the queue.
    assert counts == {"exported": 5, "dropped": 3}


def test_collector_that_is_down_is_logged_once_and_its_return_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sender = FakeSender(*["the collector cannot be reached"] * 3)
    traces, counts = exporter(sender)
    for _ in range(5):
        traces.add(record())
    traces.start()
    traces.stop()

    assert events(caplog) == ["traces not exported", "traces exported again"]
    first, second = (one.__dict__["fields"] for one in caplog.records)
    assert first["reason"] == "the collector cannot be reached"
    assert first["endpoint"] == "http://collector:4318"
    assert second["lost"] == 3
    assert counts == {"failed": 3, "exported": 2}


def test_defect_of_the_sender_costs_only_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    class Defective(FakeSender):
        def send(self, traces: Sequence[Trace]) -> str:
            if not super().send(traces) and len(self.batches) == 1:
                raise RuntimeError("defect")
            return ""

    traces, counts = exporter(Defective())
    for _ in range(2):
        traces.add(record())
    traces.start()
    traces.stop()
    assert counts == {"failed": 1, "exported": 1}
    assert "traces failed" in events(caplog)


def test_stop_gives_up_a_collector_that_does_not_respond(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender = FakeSender()
    sender.gate.clear()
    traces, counts = exporter(sender, flush_s=0.05)
    for _ in range(3):
        traces.add(record())
    traces.start()
    traces._wake.set()
    assert sender.sending.wait(WAIT_S)
    traces.stop()

    assert sender.closed
    assert counts["dropped"] == 2
    assert "traces dropped" in events(caplog)


def test_wrong_settings_are_logged_and_further_traces_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def new_sender() -> SpanSender:
        raise ValueError("Invalid compression type: 'x'")

    counts: Counter[str] = Counter()
    traces = TraceExporter(TraceSettings(), new_sender, counts)
    traces.add(record())
    traces.start()
    traces.stop()
    traces.add(record())

    assert events(caplog) == ["traces off"]
    assert "Invalid compression type" in str(caplog.records[0].__dict__["fields"]["reason"])
    assert counts == {"dropped": 2}


def test_exporter_that_was_never_started_stops() -> None:
    traces, counts = exporter(FakeSender())
    traces.add(record())
    traces.stop()
    assert counts == {"dropped": 1}
