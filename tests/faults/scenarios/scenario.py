"""The types of a fault scenario, and the function that runs one."""

import asyncio
import gc
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from provider_agent.protocol.limits import SUBPROTOCOL
from tests.kit.virtual_time import VirtualTimeLoop

VIRTUAL_LIMIT_S = 7 * 24 * 3600.0
"""A scenario that takes longer than a week of virtual time counts as hanging."""


@dataclass(frozen=True)
class Scale:
    """The size of a run of the scenarios.

    Attributes:
        streams: number of streams in scenarios with many.
        clients: number of clients in the scenario in which one of them misbehaves.
        cuts: number of cuts in scenarios that cut the link repeatedly.
        rounds: repetitions of a short scenario, with different random choices.
        seed: the seed of every random choice.
        dialect: the protocol of agents and coordinator.
    """

    streams: int
    clients: int
    cuts: int
    rounds: int
    seed: int = 1
    dialect: str = SUBPROTOCOL

    def rng(self, salt: object = "") -> random.Random:
        """Return a random generator that depends only on the seed and the salt."""
        return random.Random(f"{self.seed}/{salt}")


SHORT = Scale(streams=8, clients=10, cuts=10, rounds=1)
"""The scale of `make test`."""

FULL = Scale(streams=64, clients=50, cuts=200, rounds=8)
"""The scale of `make test-faults`."""


@dataclass(frozen=True)
class Scenario:
    """A fault, and what must hold during and after it. `table.py` lists all scenarios.

    Attributes:
        name: a few words; also the name of its test.
        fault: what happens to the system.
        expectation: what must hold.
        run: runs it; returns a summary, which `make test-faults` prints.
    """

    name: str
    fault: str
    expectation: str
    run: Callable[[Scale], Awaitable[str]] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """The result of a scenario.

    Attributes:
        summary: what the scenario observed, in a few words.
        error: why it failed; None: it passed.
        seconds: real time.
    """

    summary: str
    error: Exception | None
    seconds: float


def run_scenario(scenario: Scenario, scale: Scale, *, debug: bool = False) -> Outcome:
    """Run a scenario in virtual time. Its errors are part of the outcome."""
    started_at = time.monotonic()
    try:
        with asyncio.Runner(debug=debug, loop_factory=VirtualTimeLoop) as runner:
            summary = runner.run(_run_checked(scenario, scale))
    except Exception as error:  # noqa: BLE001 - the outcome has it
        return Outcome("", error, time.monotonic() - started_at)
    return Outcome(summary, None, time.monotonic() - started_at)


async def _run_checked(scenario: Scenario, scale: Scale) -> str:
    with _unhandled_errors() as unhandled:
        async with asyncio.timeout(VIRTUAL_LIMIT_S):
            summary = await scenario.run(scale)
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        names = sorted(task.get_name() for task in leaked)
        assert not leaked, f"tasks left running: {names}"
        gc.collect()  # asyncio reports an unretrieved exception when its future is freed
    assert not unhandled, "unhandled errors:\n" + "\n".join(unhandled)
    return summary


class _TracebackHandler(logging.Handler):
    """Keeps records with a traceback, which only unexpected errors have."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            trace = "".join(traceback.format_exception(record.exc_info[1]))
            self._errors.append(f"{record.getMessage()}\n{trace}")


@contextmanager
def _unhandled_errors() -> Iterator[list[str]]:
    """Collect errors that reach the event loop's exception handler, or the log with a traceback."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(repr(what)))
    handler = _TracebackHandler(errors)
    logging.getLogger().addHandler(handler)
    try:
        yield errors
    finally:
        logging.getLogger().removeHandler(handler)
