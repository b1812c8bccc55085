import re
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses import completeness
from provider_agent.adapters.responses.completeness import stream_end
from provider_agent.adapters.responses.event_parser import ServerSentEvent
from provider_agent.protocol.formats import Operation

CHOICES = st.sampled_from(
    [
        b'{"choices":[{"index":0,"delta":{"content":"a"}}]}',
        b'{"choices":[{"index": 0,"delta":{}},{"index":1,"finish_reason":null}]}',
        b'{"choices":[{"index":0,"finish_reason":"stop"}]}',
        b'{"choices":[{"finish_reason":"stop","index":0}]}',
        b'{"choices":[{"index":2,"finish_reason":"length"}]}',
        b'{"choices":[{"index":1,"finish_reason":"stop"}],"usage":null}',
        b'{"choices":[{"index":null,"delta":{}}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":1}]},"index":0}]}',
        b'{"choices":[{"delta":{"content":"a"}}]}',
        b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"choices":0}',
        b"[DONE]",
    ]
)


@given(st.lists(CHOICES, max_size=6), st.booleans())
def test_end_of_a_stream_with_one_choice_is_that_of_all_events(
    data: list[bytes], is_whole: bool
) -> None:
    # With one choice, the last events decide, and earlier ones are not decoded.
    events = [ServerSentEvent(b"", one) for one in data]
    end = stream_end(Operation.CHAT, events, is_whole=is_whole)

    with patch.object(completeness, "_OTHER_INDEX", re.compile(b"")):
        assert stream_end(Operation.CHAT, events, is_whole=is_whole) == end
