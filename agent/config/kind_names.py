"""Finds the kind of backend that an unknown name probably means."""

from collections.abc import Collection
from typing import Final

from provider_agent.agent.config.errors import did_you_mean

_OWN_OR_PAID: Final = (
    'did you mean "openai_compatible", for a server of your own, or "openai_passthrough", for a '
    "service that charges you?"
)
_OWN: Final = 'did you mean "openai_compatible"?'

_ADVICE: Final = {
    "openai": _OWN_OR_PAID,
    "openaiapi": _OWN_OR_PAID,
    "litellm": _OWN_OR_PAID,
    "sglang": _OWN,
    "tgi": _OWN,
    "tabbyapi": _OWN,
    "localai": _OWN,
    "koboldcpp": _OWN,
    "llamafile": 'did you mean "llamacpp"?',
    "llamaserver": 'did you mean "llamacpp"?',
}
"""Programs and services that speak the API of OpenAI or are llama.cpp, by name without
punctuation."""


def unknown_kind_advice(kind: str, known: Collection[str]) -> str:
    """Return which known kind an unknown one probably means, or else all known kinds."""
    name = _plain(kind)
    if name in _ADVICE:
        return _ADVICE[name]
    same = next((other for other in sorted(known) if _plain(other) == name), None)
    return did_you_mean(same or kind, known)


def _plain(kind: str) -> str:
    """Return the name in lower case, without punctuation."""
    return "".join(character for character in kind.lower() if character.isalnum())
