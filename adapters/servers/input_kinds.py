"""The kinds of input that a model accepts (`text`, `image`, …), for `BackendModel.input_kinds`."""

import re
from collections.abc import Iterable
from typing import Final

MAX_KINDS: Final = 16
"""Limit of kinds of one model: that of the protocol's `ModelOffer.input_kinds`."""

_KIND: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def kinds_from_flags(*, image: bool | None, **others: bool | None) -> frozenset[str] | None:
    """Return text and every kind whose flag is set; None if the server reports no `image` flag.

    Args:
        image: whether requests may contain images; None if not reported.
        others: the same for other kinds. One that is not reported is left out.
    """
    if image is None:
        return None
    flags = {"text": True, "image": image, **others}
    return frozenset(kind for kind, supported in flags.items() if supported)


def kinds_from_names(names: Iterable[str] | None) -> frozenset[str] | None:
    """Return up to `MAX_KINDS` of the well-formed names that a server lists; None without any."""
    valid = sorted({name for name in names or () if _KIND.fullmatch(name)})
    return frozenset(valid[:MAX_KINDS]) or None
