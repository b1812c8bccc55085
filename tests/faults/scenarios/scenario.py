"""What a scenario is, and how one is run."""

import asyncio
import gc
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.kit.virtual_time import VirtualTimeLoop

VIRTUAL_LIMIT_S = 7 * 24 * 3600.0
"""In a scenario's own time: what takes longer than a week hangs."""


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        streams: at once, where many are asked for.
        clients: of which one misbehaves.
        cuts: of the link, where it is cut again and again.
        rounds: how often a short scenario is repeated with other moments.
        seed: of every random choice.
    """

    streams: int
    clients: int
    cuts: int
    rounds: int
    seed: int = 1

    def dice(self, salt: object = "") -> random.Random:
        """Random choices, the same ones for the same seed."""
        return random.Random(f"{self.seed}/{salt}")


SHORT = Effort(streams=8, clients=10, cuts=10, rounds=1)
"""For every run of the tests."""

FULL = Effort(streams=64, clients=50, cuts=200, rounds=8)
"""What `make test-faults` does."""


@dataclass(frozen=True)
class Scenario:
    """One line of the table.

    Attributes:
        name: in a few words; also the name of its test.
        done: what is done to the system.
        promise: what must hold.
        run: does it; returns what was seen, for the table.
    """

    name: str
    done: str
    promise: str
    run: Callable[[Effort], Awaitable[str]] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """How a scenario went.

    Attributes:
        seen: what was seen, in a few words.
        error: why it failed; None: it held.
        seconds: real ones.
    """

    seen: str
    error: Exception | None
    seconds: float


def perform(scenario: Scenario, effort: Effort, *, debug: bool = False) -> Outcome:
    """Run a scenario in virtual time. Only interrupts are raised."""
    began = time.monotonic()
    try:
        with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
            seen = runner.run(_bounded(scenario, effort))
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it goes into the table
        return Outcome("", error, time.monotonic() - began)
    return Outcome(seen, None, time.monotonic() - began)


async def _bounded(scenario: Scenario, effort: Effort) -> str:
    with _stray_errors() as stray:
        async with asyncio.timeout(VIRTUAL_LIMIT_S):
            seen = await scenario.run(effort)
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        names = sorted(task.get_name() for task in leaked)
        assert not leaked, f"tasks left running: {names}"
        gc.collect()  # what was raised where nobody looked is told when it is thrown away
    assert not stray, "errors that nobody handled:\n" + "\n".join(stray)
    return seen


class _Tracebacks(logging.Handler):
    """Keeps what is logged with a traceback: an error that nobody expected."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            trace = "".join(traceback.format_exception(record.exc_info[1]))
            self._kept.append(f"{record.getMessage()}\n{trace}")


@contextmanager
def _stray_errors() -> Iterator[list[str]]:
    """Errors that ended in the log, with a traceback, or at the event loop."""
    stray: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(repr(context)))
    handler = _Tracebacks(stray)
    logging.getLogger().addHandler(handler)
    try:
        yield stray
    finally:
        logging.getLogger().removeHandler(handler)
