import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.agent.telemetry.systemd import STATUS_EVERY_S, ServiceManager
from tests.kit.cli_agent import READY
from tests.kit.virtual_time import in_virtual_time, now

STATE = replace(READY, in_flight=2, capacity=8)
STATUS = "STATUS=link connected, 2 of 8 jobs"


class FakeSystemd:
    """A datagram socket that receives the notifications."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address)
        self.close = self._socket.close

    def received(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def systemd(path: str) -> Iterator[FakeSystemd]:
    listening = FakeSystemd(path)
    yield listening
    listening.close()


@in_virtual_time
async def run_for(environ: dict[str, str], seconds: float, states: list[StatusSnapshot]) -> None:
    """Run the service manager for `seconds`.

    Each status call returns the next state; the last state repeats.
    """

    def status() -> StatusSnapshot:
        return states.pop(0) if len(states) > 1 else states[0]

    started_at = now()
    running = asyncio.create_task(ServiceManager(environ).run(status, asyncio.Event()))
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert now() - started_at >= seconds


def test_watchdog_is_notified_three_times_per_timeout(path: str, systemd: FakeSystemd) -> None:
    environ = {
        "NOTIFY_SOCKET": path,
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    run_for(environ, 59.0, [STATE])
    assert systemd.received() == ["READY=1", *[f"WATCHDOG=1\n{STATUS}"] * 3]


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"},
    ],
)
def test_status_is_sent_without_a_watchdog(
    watchdog: dict[str, str], path: str, systemd: FakeSystemd
) -> None:
    run_for({"NOTIFY_SOCKET": path, **watchdog}, STATUS_EVERY_S - 1, [STATE])
    assert systemd.received() == ["READY=1", f"WATCHDOG=1\n{STATUS}"]


def test_status_says_why_the_agent_does_not_serve(path: str, systemd: FakeSystemd) -> None:
    closed = AvailabilityStatus(open=False, reason="paused until Mon 2026-06-01 14:00 +02:00")
    run_for({"NOTIFY_SOCKET": path}, 1.0, [replace(STATE, availability=closed)])
    assert systemd.received() == [
        "READY=1",
        f"WATCHDOG=1\n{STATUS}, paused until Mon 2026-06-01 14:00 +02:00",
    ]


def test_stopping_is_sent_once(path: str, systemd: FakeSystemd) -> None:
    run_for({"NOTIFY_SOCKET": path}, 25.0, [STATE, replace(STATE, draining=True)])
    assert systemd.received().count("STOPPING=1") == 1


@in_virtual_time
async def test_change_is_sent_at_once(path: str, systemd: FakeSystemd) -> None:
    # Regression: the text said "link starting" for up to 20 s after the link was connected.
    state, changed = replace(STATE, link="starting"), asyncio.Event()
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000000"}
    running = asyncio.create_task(ServiceManager(environ).run(lambda: state, changed))
    await asyncio.sleep(1)
    assert systemd.received()[-1] == "WATCHDOG=1\nSTATUS=link starting, 2 of 8 jobs"
    state = replace(STATE, in_flight=3)  # a job alone is not sent
    await asyncio.sleep(1)
    assert systemd.received() == []
    state = STATE
    changed.set()
    await asyncio.sleep(1)
    assert systemd.received() == [f"WATCHDOG=1\n{STATUS}"]
    state = replace(STATE, draining=True)
    changed.set()
    await asyncio.sleep(1)
    assert systemd.received() == ["STOPPING=1", f"WATCHDOG=1\n{STATUS}"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_abstract_socket_is_supported(path: str) -> None:
    name = f"provider-agent-test-{os.getpid()}"
    listening = FakeSystemd(f"\0{name}")
    run_for({"NOTIFY_SOCKET": f"@{name}"}, 1.0, [STATE])
    assert listening.received()[0] == "READY=1"
    listening.close()


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/missing/socket"}]
)
def test_missing_socket_is_ignored(environ: dict[str, str]) -> None:
    run_for(environ, 1.0, [STATE])
