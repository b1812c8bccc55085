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
"""

from typing import Final

import msgspec

from provider_agent.protocol.field_values import valid_count
from provider_agent.protocol.frames import Usage

_NULL: Final = msgspec.Raw(b"null")


class UsageReport(msgspec.Struct):
    """A `usage` object in any format.

    The details stay raw, so that malformed ones do not hide the counts beside them.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: msgspec.Raw = _NULL
    completion_tokens_details: msgspec.Raw = _NULL
    input_tokens_details: msgspec.Raw = _NULL
    output_tokens_details: msgspec.Raw = _NULL


class _Details(msgspec.Struct):
    """The parts of an input or output count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    thinking_tokens: int | None = None


# A decoder per type: `msgspec.json.decode` with `type` would build one for each call.
_USAGE: Final[msgspec.json.Decoder[UsageReport | None]] = msgspec.json.Decoder(UsageReport | None)
_DETAILS: Final[msgspec.json.Decoder[_Details | None]] = msgspec.json.Decoder(_Details | None)


def decode_usage(raw: msgspec.Raw) -> UsageReport | None:
    """Decode a usage object; None if it is null or malformed."""
    try:
        return _USAGE.decode(raw)
    except ValueError:
        return None


def merge_usage(*reports: UsageReport | None) -> Usage:
    """Merge reports field by field; a later report overrides an earlier one."""
    counts: dict[str, int] = {}
    for report in reports:
        for name, reported in _counts(report).items() if report is not None else ():
            if (count := valid_count(reported)) is not None:
                counts[name] = count
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


def _counts(report: UsageReport) -> dict[str, int | None]:
    prompt = _details(report.prompt_tokens_details, report.input_tokens_details)
    output = _details(report.completion_tokens_details, report.output_tokens_details)
    return {
        "prompt": report.prompt_tokens,
        "input": report.input_tokens,
        "output": _first_known(report.completion_tokens, report.output_tokens),
        "cache_read": report.cache_read_input_tokens,
        "cache_creation": report.cache_creation_input_tokens,
        "cached": prompt.cached_tokens,
        "cache_write": _first_known(prompt.cache_write_tokens, prompt.cache_creation_input_tokens),
        "reasoning": _first_known(output.reasoning_tokens, output.thinking_tokens),
    }


def _details(*raws: msgspec.Raw) -> _Details:
    """Return the first valid details object; without one, every count is None."""
    for raw in raws:
        try:
            details = _DETAILS.decode(raw)
        except ValueError:
            continue
        if details is not None:
            return details
    return _Details()


def _first_known(*counts: int | None) -> int | None:
    return next((n for n in counts if n is not None), None)
