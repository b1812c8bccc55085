import pytest

from provider_agent.protocol.formats import MAIN_OPERATION, Operation, WireFormat, find_operation


@pytest.mark.parametrize(
    ("wire_format", "operation", "found"),
    [
        ("openai", "", Operation.CHAT),
        ("openai", "chat", Operation.CHAT),
        ("openai", "completions", Operation.COMPLETIONS),
        ("openai", "embeddings", Operation.EMBEDDINGS),
        ("openai", "responses", Operation.RESPONSES),
        ("anthropic", "", Operation.MESSAGES),
        ("anthropic", "messages", Operation.MESSAGES),
        ("anthropic", "count_tokens", Operation.COUNT_TOKENS),
        ("openai", "messages", None),
        ("anthropic", "chat", None),
        ("openai", "unknown", None),
        ("gemini", "", None),
        ("gemini", "chat", None),
        ("", "", None),
        ("OpenAI", "chat", None),
    ],
)
def test_find_operation_requires_a_known_format_and_an_operation_of_it(
    wire_format: str, operation: str, found: Operation | None
) -> None:
    assert find_operation(wire_format, operation) is found


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.CHAT, "/v1/chat/completions"),
        (Operation.COMPLETIONS, "/v1/completions"),
        (Operation.EMBEDDINGS, "/v1/embeddings"),
        (Operation.RESPONSES, "/v1/responses"),
        (Operation.MESSAGES, "/v1/messages"),
        (Operation.COUNT_TOKENS, "/v1/messages/count_tokens"),
    ],
)
def test_each_operation_has_the_path_of_its_api(operation: Operation, path: str) -> None:
    assert operation.path == path


def test_every_operation_has_a_format_and_its_own_path() -> None:
    assert {operation.wire_format for operation in Operation} == set(WireFormat)
    assert len({operation.path for operation in Operation}) == len(Operation)


@pytest.mark.parametrize("wire_format", WireFormat)
def test_the_main_operation_belongs_to_its_format(wire_format: WireFormat) -> None:
    assert MAIN_OPERATION[wire_format].wire_format is wire_format
