"""Reads a few gauges out of a server's Prometheus text."""

import math
from collections.abc import Collection

from prometheus_client.parser import text_string_to_metric_families

from provider_agent.adapters.base import InvalidResponse


def read_gauges(text: bytes, names: Collection[str]) -> dict[str, list[float]]:
    """The finite values of some metrics, one for each set of labels.

    A server tells hundreds of metrics; only the lines of the wanted ones are parsed.

    Args:
        text: in the exposition format.
        names: of the metrics.

    Raises:
        InvalidResponse: a line of a wanted metric is none.
    """
    found: dict[str, list[float]] = {}
    beginnings = tuple(name + mark for name in names for mark in "{ ")
    lines = text.decode(errors="replace").splitlines()
    wanted = "".join(f"{line}\n" for line in lines if line.startswith(beginnings))
    try:
        for family in text_string_to_metric_families(wanted):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    found.setdefault(sample.name, []).append(sample.value)
    except (ValueError, IndexError, KeyError) as error:
        raise InvalidResponse("the server's metrics are not in the Prometheus format") from error
    return found
