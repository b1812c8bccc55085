import pytest

from provider_agent.adapters.responses.body_validator import BodyValidator
from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.adapters.responses.validator import validator_for
from provider_agent.protocol.formats import Operation


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", StreamValidator),
        ("Text/Event-Stream; charset=utf-8", StreamValidator),
        ("application/json", BodyValidator),
        ("", BodyValidator),
    ],
)
def test_content_type_selects_the_validator(content_type: str, expected: type) -> None:
    assert isinstance(validator_for(Operation.CHAT, content_type), expected)
