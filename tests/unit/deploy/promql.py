"""Finds the metrics and labels that a PromQL expression names."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import promql_parser

_CHILDREN = ("lhs", "rhs", "expr", "args", "vector_selector", "param")


def named_labels(expression: str) -> dict[str, set[str]]:
    """Return the labels that an expression needs of each metric, by the metric's name.

    A label of a `by` or `on` clause is needed of every metric below.

    Raises:
        ValueError: the expression is not PromQL, or matches on labels that an aggregation below
            does not keep.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for selector, labels in _selectors(promql_parser.parse(expression), frozenset()):
        matchers = {matcher.name for matcher in selector.matchers.matchers}
        found[selector.name] |= matchers | labels
    return dict(found)


def _selectors(node: Any, labels: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node, labels
        return
    if isinstance(node, promql_parser.AggregateExpr):
        if (
            node.modifier is not None
            and node.modifier.type is promql_parser.AggModifierType.Without
        ):
            raise ValueError("`without` is not checked: use `by`")
        kept = frozenset(node.modifier.labels) if node.modifier else frozenset()
        if not labels <= kept:
            raise ValueError(f"the aggregation does not keep {sorted(labels - kept)}")
        labels = kept
    elif isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
        labels |= frozenset(node.modifier.matching.labels)
    for name in _CHILDREN:
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from _selectors(one, labels)
