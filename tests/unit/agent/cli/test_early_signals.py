"""Runs short scripts, each in a process that sends a signal to itself."""

import asyncio
import signal
import sys

import pytest

from provider_agent.agent.cli.early_signals import EarlySignals

SCRIPT = """
import os, signal, sys
from provider_agent.agent.cli.early_signals import EarlySignals

class SignalInDestructor:
    def __del__(self):  # Python ignores an exception raised in here
        os.kill(os.getpid(), int(sys.argv[1]))

with EarlySignals() as early:
    {body}
print("reload requested" if early.reload_requested else "no reload")
sys.exit(3)
"""


async def run_script(body: str, number: signal.Signals) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT.format(body=body),
        str(int(number)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("body", ["os.kill(os.getpid(), int(sys.argv[1]))", "SignalInDestructor()"])
async def test_stop_signal_ends_the_process_with_exit_code_0(
    number: signal.Signals, body: str
) -> None:
    assert await run_script(body, number) == (0, "", "")


async def test_reload_signal_is_remembered() -> None:
    body = "os.kill(os.getpid(), int(sys.argv[1]))"
    assert await run_script(body, signal.SIGHUP) == (3, "reload requested\n", "")
    assert await run_script("pass", signal.SIGHUP) == (3, "no reload\n", "")


def test_previous_handlers_are_restored_on_exit() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with EarlySignals():
        within = [signal.getsignal(number) for number in numbers]
    assert [signal.getsignal(number) for number in numbers] == before
    assert not set(within) & set(before)
