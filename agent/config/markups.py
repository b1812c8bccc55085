"""Warns of a `markup` without an effect.

It is no error, because the Rust agent accepts one at every kind: its files must load unchanged.
"""

from collections.abc import Iterable, Iterator

from provider_agent.adapters.registry import backend_class
from provider_agent.agent.config.schema import BackendConfig


def markup_warnings(backends: Iterable[BackendConfig]) -> Iterator[str]:
    """Yield a warning for each backend with a markup whose server reports no prices."""
    for index, backend in enumerate(backends):
        native = backend_class(backend.kind).native
        if backend.markup and (native or backend.kind == "openai_passthrough"):
            yield (
                f"backends[{index}].markup has no effect: {backend.kind} reports no prices; "
                "remove it, and set the prices in [pricing.models]"
            )
