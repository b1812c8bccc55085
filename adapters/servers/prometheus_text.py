"""Reads selected metrics from a server's page in the Prometheus text format."""

import math
import re
from collections.abc import Collection
from typing import Final

from provider_agent.adapters.base import InvalidResponse

_SAMPLE: Final = re.compile(
    r"""
    (?P<name>[^{ ]+)
    (?:\s*+\{(?:\s*+\w+\s*=\s*"(?:[^"\\]++|\\.)*+"\s*+(?:,|(?=\})))*+\s*+\})?+
    \s+(?P<value>\S+)
    (?:\s+-?\d+)?  # milliseconds since 1970
    \s*""",
    re.VERBOSE,
)
"""A line of a metric. No repetition gives characters back, because that takes memory for each: a
label of 8 MB took a gigabyte.

prometheus_client has a parser too, but its import takes as much time and memory as twenty of our
modules."""


def read_metrics(text: bytes, names: Collection[str]) -> dict[str, list[float]]:
    """Return the finite values of the requested metrics, one for each set of labels.

    A server reports hundreds of metrics; only the lines of the requested ones are parsed.

    Args:
        text: the metrics in the text exposition format.
        names: names of the requested metrics.

    Raises:
        InvalidResponse: a line of a requested metric is malformed.
    """
    found: dict[str, list[float]] = {}
    prefixes = tuple(name + separator for name in names for separator in "{ ")
    try:
        for line in text.decode(errors="replace").splitlines():
            if line.startswith(prefixes):
                sample = _SAMPLE.fullmatch(line)
                if sample is None:
                    raise ValueError("not a sample")
                value = float(sample["value"])
                if math.isfinite(value):
                    found.setdefault(sample["name"], []).append(value)
    except ValueError as error:
        raise InvalidResponse("the server's metrics are not in the Prometheus format") from error
    return found
