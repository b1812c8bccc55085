import pytest

from provider_agent.protocol.limits import BATCH_BYTES
from provider_agent.websocket.message_size import FAST_S, MIN_MESSAGE_BYTES, SLOW_S, MessageSize


@pytest.mark.parametrize(
    ("durations_s", "limit_bytes"),
    [
        ([], BATCH_BYTES),
        ([0.0], BATCH_BYTES),
        ([SLOW_S], BATCH_BYTES),
        ([2 * SLOW_S], BATCH_BYTES // 2),
        ([2 * SLOW_S] * 100, MIN_MESSAGE_BYTES),
        ([2 * SLOW_S] * 100 + [FAST_S], MIN_MESSAGE_BYTES),
        ([2 * SLOW_S] * 100 + [0.0], 2 * MIN_MESSAGE_BYTES),
        ([2 * SLOW_S] * 100 + [0.0] * 100, BATCH_BYTES),
    ],
)
def test_limit_adapts_to_the_speed_of_the_link(durations_s: list[float], limit_bytes: int) -> None:
    size = MessageSize()
    for duration_s in durations_s:
        size.adapt(duration_s)
    assert size.limit_bytes == limit_bytes
