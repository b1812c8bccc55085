"""How long the machines run: a moment in `make test`, minutes in `make fuzz`."""

import os
from collections import Counter
from typing import Final

from hypothesis import HealthCheck, settings

EXAMPLES_VARIABLE: Final = "FUZZ_EXAMPLES"
QUICK_EXAMPLES: Final = 40
STEPS: Final = 50

IS_LONG: Final = EXAMPLES_VARIABLE in os.environ

STEPS_DONE: Final[Counter[str]] = Counter()
"""What was done in this process, by name: for the report of a long run."""


def depth(weight: float = 1.0) -> settings:
    """For one machine or property: `weight` times the examples that are asked for.

    A long run is a search, so it is never the same twice, and what it finds is kept for the next.
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
