"""Reads token counts from the `usage` object of any wire format.

The formats count differently. In the OpenAI formats, `prompt_tokens` and the `input_tokens` of
Responses include cached tokens, whose number is in the details. In Messages, `input_tokens`
excludes the tokens that were read from or written to a cache, which have counts of their own
(https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching). `Usage` always counts the
whole prompt and the whole output.

These fields count parts of the input or the output:

- cached: `cached_tokens` in the details of the input (OpenAI, OpenRouter, Venice, vLLM, llama.cpp);
  `cache_read_input_tokens` in Messages.
- written to a cache: `cache_write_tokens` (OpenRouter, vLLM's Responses) or
  `cache_creation_input_tokens` (Venice) in the same details; `cache_creation_input_tokens` in
  Messages.
- reasoning: `reasoning_tokens`, or in Messages `thinking_tokens`, in the details of the output.

Each field is decoded on its own: a malformed one hides no other. A count may be written as `5.0`.
"""

from typing import Final

import msgspec

from provider_agent.protocol.field_values import valid_count
from provider_agent.protocol.frames import Usage

Counts = dict[str, int]
"""The valid counts of a usage object, by the keys of `_FIELDS` and `_DETAILS`."""

_FIELDS: Final = {
    "prompt": ("prompt_tokens",),
    "input": ("input_tokens",),
    "output": ("completion_tokens", "output_tokens"),
    "cache_read": ("cache_read_input_tokens",),
    "cache_creation": ("cache_creation_input_tokens",),
}
_DETAILS: Final = {
    "cached": ("cached_tokens",),
    "cache_write": ("cache_write_tokens", "cache_creation_input_tokens"),
    "reasoning": ("reasoning_tokens", "thinking_tokens"),
}
_DETAILS_FIELDS: Final = (
    *("prompt_tokens_details", "input_tokens_details"),
    *("completion_tokens_details", "output_tokens_details"),
)

# A decoder per type: `msgspec.json.decode` with `type` would build one for each call.
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NUMBER: Final = msgspec.json.Decoder(int | float)


def decode_usage(raw: msgspec.Raw) -> Counts:
    """Return the valid counts of a usage object; empty for any other JSON."""
    fields = _decode_object(raw)
    counts = _counts(fields, _FIELDS) if fields else {}
    for name in _DETAILS_FIELDS:
        if name in fields:
            counts |= _counts(_decode_object(fields[name]), _DETAILS)
    return counts


def merge_usage(*reports: Counts) -> Usage:
    """Merge reports field by field; a later report overrides an earlier one."""
    counts: Counts = {}
    for report in reports:
        counts |= report
    prompt = counts.get("prompt")
    if prompt is None and "input" in counts:
        read, written = counts.get("cache_read", 0), counts.get("cache_creation", 0)
        prompt = valid_count(counts["input"] + read + written)
    return Usage(
        input_tokens=prompt,
        output_tokens=counts.get("output"),
        cached_tokens=counts.get("cache_read", counts.get("cached")),
        cache_write_tokens=counts.get("cache_creation", counts.get("cache_write")),
        reasoning_tokens=counts.get("reasoning"),
    )


def _decode_object(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _OBJECT.decode(raw)
    except ValueError:
        return {}


def _counts(fields: dict[str, msgspec.Raw], names: dict[str, tuple[str, ...]]) -> Counts:
    """Return the first valid count for each of `names`."""
    counts: Counts = {}
    for name, spellings in names.items():
        for spelling in spellings:
            if spelling in fields and (count := _decode_count(fields[spelling])) is not None:
                counts[name] = count
                break
    return counts


def _decode_count(raw: msgspec.Raw) -> int | None:
    """Return a count, also one that is written as `5.0`; None if it is not a valid count."""
    try:
        number = _NUMBER.decode(raw)
    except ValueError:
        return None
    return valid_count(int(number) if number == number // 1 else None)
