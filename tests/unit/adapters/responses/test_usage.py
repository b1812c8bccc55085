"""Reading token counts from recorded and documented responses of each server."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.events import decode_event
from provider_agent.adapters.responses.usage import Counts, decode_usage, merge_usage
from provider_agent.protocol.frames import Usage
from provider_agent.protocol.limits import MAX_INTEGER


def read_usage(data: bytes) -> Usage:
    event = decode_event(data)
    assert event is not None
    return merge_usage(event.inner_usage, event.usage)


# The reports of OpenAI and OpenRouter are from their API references, that of Venice is from its
# guide "Prompt caching", and that of Anthropic from its guides on prompt caching and extended
# thinking. The others were recorded.
REPORTS = {
    "llama.cpp chat": (
        (
            b'{"completion_tokens":5,"prompt_tokens":29,"total_tokens":34,'
            b'"prompt_tokens_details":{"cached_tokens":28}}'
        ),
        Usage(29, 5, 28),
    ),
    "llama.cpp responses": (
        (
            b'{"input_tokens":29,"output_tokens":3,"total_tokens":32,'
            b'"input_tokens_details":{"cached_tokens":28}}'
        ),
        Usage(29, 3, 28),
    ),
    "llama.cpp messages": (
        b'{"cache_read_input_tokens":27,"input_tokens":1,"output_tokens":4}',
        Usage(28, 4, 27),
    ),
    "vllm chat": (
        (
            b'{"prompt_tokens":21,"total_tokens":26,"completion_tokens":5,'
            b'"prompt_tokens_details":null,"completion_tokens_details":null}'
        ),
        Usage(21, 5),
    ),
    "vllm responses": (
        (
            b'{"input_tokens":21,"input_tokens_details":{"cached_tokens":16,"cache_write_tokens":0,'
            b'"input_tokens_per_turn":[],"cached_tokens_per_turn":[]},"output_tokens":5,'
            b'"output_tokens_details":{"reasoning_tokens":2,"tool_output_tokens":0}}'
        ),
        Usage(21, 5, 16, 0, 2),
    ),
    "openai chat": (
        (
            b'{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,'
            b'"prompt_tokens_details":{"cached_tokens":1920,"audio_tokens":0},'
            b'"completion_tokens_details":{"reasoning_tokens":256,"audio_tokens":0}}'
        ),
        Usage(2006, 300, 1920, None, 256),
    ),
    "openrouter": (
        (
            b'{"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":0},"cost":0.95,'
            b'"prompt_tokens":194,"prompt_tokens_details":{"cached_tokens":0,'
            b'"cache_write_tokens":100,"audio_tokens":0},"total_tokens":196}'
        ),
        Usage(194, 2, 0, 100, 0),
    ),
    "venice": (
        (
            b'{"prompt_tokens":5500,"completion_tokens":200,"total_tokens":5700,'
            b'"prompt_tokens_details":{"cached_tokens":5000,"cache_creation_input_tokens":400}}'
        ),
        Usage(5500, 200, 5000, 400),
    ),
    "anthropic": (
        (
            b'{"input_tokens":50,"cache_read_input_tokens":100000,"cache_creation_input_tokens":248,'
            b'"cache_creation":{"ephemeral_5m_input_tokens":248,"ephemeral_1h_input_tokens":0},'
            b'"output_tokens":503,"output_tokens_details":{"thinking_tokens":400}}'
        ),
        Usage(100298, 503, 100000, 248, 400),
    ),
    "embeddings": (b'{"prompt_tokens":3,"total_tokens":3}', Usage(3)),
}


@pytest.mark.parametrize("name", REPORTS)
def test_usage_counts_the_whole_prompt_and_the_whole_output(name: str) -> None:
    report, usage = REPORTS[name]

    assert read_usage(b'{"usage":%s}' % report) == usage


@pytest.mark.parametrize(
    ("data", "usage"),
    [
        (b'{"message":{"usage":{"input_tokens":3}}}', Usage(3)),
        (b'{"response":{"usage":{"input_tokens":3,"output_tokens":4}}}', Usage(3, 4)),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}', Usage(0, 0)),
        (b'{"usage":null}', Usage()),
        (b'{"usage":{}}', Usage()),
        (b'{"usage":{"prompt_tokens":null}}', Usage()),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":4}}', Usage(None, 4)),
        (
            b'{"usage":{"prompt_tokens":%d,"completion_tokens":4}}' % (MAX_INTEGER + 1),
            Usage(None, 4),
        ),
        (b'{"usage":{"prompt_tokens":%d}}' % 10**30, Usage()),
        (b'{"usage":{"prompt_tokens":1.5,"completion_tokens":4}}', Usage(None, 4)),
        (b'{"usage":{"prompt_tokens":1e999,"completion_tokens":4}}', Usage(None, 4)),
        (b'{"usage":{"prompt_tokens":true,"completion_tokens":{}}}', Usage()),
        (b'{"usage":{"prompt_tokens":5.0,"completion_tokens":4e0}}', Usage(5, 4)),
        (b'{"usage":{"completion_tokens":"?","output_tokens":4}}', Usage(None, 4)),
        (b'{"usage":{"prompt_tokens":"3"}}', Usage()),
        (b'{"usage":[1,2]}', Usage()),
        (b'{"usage":"none"}', Usage()),
        (b'{"message":"words","usage":{"prompt_tokens":3}}', Usage(3)),
        (b'{"message":{"usage":7},"response":{"usage":[]}}', Usage()),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":[7]}}', Usage(3)),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":"?"}}}', Usage(3)),
        (
            (
                b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":2,'
                b'"cache_write_tokens":[]}}}'
            ),
            Usage(3, None, 2),
        ),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":-2}}}', Usage(3)),
    ],
)
def test_counts_are_read_from_each_place_and_malformed_ones_are_unknown(
    data: bytes, usage: Usage
) -> None:
    assert read_usage(data) == usage


def test_later_report_overrides_field_by_field() -> None:
    start: Counts = {"input": 5, "output": 0, "cache_read": 2}
    end: Counts = {"input": 21, "output": 7}

    assert merge_usage(start, {}, end) == Usage(23, 7, 2)
    assert merge_usage(end, {}) == Usage(21, 7)
    assert merge_usage() == Usage()


COUNTS = st.none() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=2)
DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]), COUNTS
)
REPORT = st.dictionaries(
    st.sampled_from(["prompt_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens"]),
    COUNTS,
) | st.dictionaries(st.sampled_from(["prompt_tokens_details", "output_tokens_details"]), DETAILS)


@given(st.lists(REPORT, max_size=3))
def test_merged_usage_is_in_range_or_unknown(reports: list[dict[str, object]]) -> None:
    decoded = [decode_usage(msgspec.Raw(msgspec.json.encode(report))) for report in reports]

    for count in msgspec.structs.astuple(merge_usage(*decoded)):
        assert count is None or 0 <= count <= MAX_INTEGER
