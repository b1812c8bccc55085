"""How many examples the fuzz tests run: few in `make test`, many in `make fuzz`."""

import os
from collections import Counter
from typing import Final

from hypothesis import HealthCheck, settings

EXAMPLES_VARIABLE: Final = "FUZZ_EXAMPLES"
QUICK_EXAMPLES: Final = 40
STEPS: Final = 50

IS_LONG: Final = EXAMPLES_VARIABLE in os.environ

STEPS_DONE: Final[Counter[str]] = Counter()
"""Counts of what the current test has executed, by name, for the report of a long run."""


def depth(weight: float = 1.0) -> settings:
    """Settings of one state machine or property, with `weight` times the usual examples.

    A long run is not derandomized: it repeats the examples that failed in earlier runs, then tries
    new ones.
    """
    if not IS_LONG:
        return settings(max_examples=round(QUICK_EXAMPLES * weight), stateful_step_count=STEPS)
    return settings(
        max_examples=round(int(os.environ[EXAMPLES_VARIABLE]) * weight),
        stateful_step_count=2 * STEPS,
        derandomize=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
