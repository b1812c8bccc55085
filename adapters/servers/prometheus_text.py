"""Reads selected metrics from a server's page in the Prometheus text format."""

import math
from collections.abc import Collection

from prometheus_client.parser import text_string_to_metric_families

from provider_agent.adapters.base import InvalidResponse


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
    lines = text.decode(errors="replace").splitlines()
    wanted = "".join(f"{line}\n" for line in lines if line.startswith(prefixes))
    try:
        for family in text_string_to_metric_families(wanted):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    found.setdefault(sample.name, []).append(sample.value)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InvalidResponse("the server's metrics are not in the Prometheus format") from error
    return found
