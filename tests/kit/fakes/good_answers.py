"""The good answer to every operation, streamed or whole; what differs between servers is told."""

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import (
    chat_body,
    chat_frames,
    completion_body,
    completion_frames,
    counted_body,
    embeddings_body,
    message_body,
    message_frames,
    response_body,
    response_frames,
)
from tests.kit.fakes.server import Answer, Exchange, json_answer, stream_answer


def good_answer(
    exchange: Exchange,
    model: str,
    *,
    always_usage: bool = False,
    first: object = "",
    start_usage: dict[str, int] | None = None,
    end_usage: dict[str, int] | None = None,
) -> Answer:
    """What a server in good order answers to this request.

    Args:
        exchange: whose operation and fields count.
        model: the name in the answer.
        always_usage: a stream reports its usage without being asked.
        first: content of the chat delta that names the role.
        start_usage: of `message_start`.
        end_usage: of `message_delta`.
    """
    usage = always_usage or exchange.asks_for_usage
    match exchange.operation, exchange.is_streamed:
        case Operation.CHAT, True:
            return stream_answer(chat_frames(model, usage=usage, first=first))
        case Operation.COMPLETIONS, True:
            return stream_answer(completion_frames(model, usage=usage))
        case Operation.RESPONSES, True:
            return stream_answer(response_frames(model))
        case Operation.MESSAGES, True:
            frames = message_frames(model, start_usage=start_usage, end_usage=end_usage)
            return stream_answer(frames)
        case Operation.CHAT, _:
            return json_answer(chat_body(model))
        case Operation.COMPLETIONS, _:
            return json_answer(completion_body(model))
        case Operation.RESPONSES, _:
            return json_answer(response_body(model))
        case Operation.MESSAGES, _:
            return json_answer(message_body(model))
        case Operation.EMBEDDINGS, _:
            return json_answer(embeddings_body(model))
    return json_answer(counted_body())
