"""Successful responses to every operation, streamed or whole."""

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
from tests.kit.fakes.server import FakeResponse, RecordedRequest, json_response, stream_response


def good_response(
    request: RecordedRequest,
    model: str,
    *,
    always_usage: bool = False,
    first: object = "",
    start_usage: dict[str, int] | None = None,
    end_usage: dict[str, int] | None = None,
) -> FakeResponse:
    """Return the successful response to this request.

    Args:
        request: determines the operation, and whether the response is a stream.
        model: the model name in the response.
        always_usage: report the usage of a stream even if the request does not ask for it.
        first: the content in the first delta of a chat stream, which has the role.
        start_usage: usage in `message_start`.
        end_usage: usage in `message_delta`.
    """
    usage = always_usage or request.asks_for_usage
    match request.operation, request.is_streamed:
        case Operation.CHAT, True:
            return stream_response(chat_frames(model, usage=usage, first=first))
        case Operation.COMPLETIONS, True:
            return stream_response(completion_frames(model, usage=usage))
        case Operation.RESPONSES, True:
            return stream_response(response_frames(model))
        case Operation.MESSAGES, True:
            frames = message_frames(model, start_usage=start_usage, end_usage=end_usage)
            return stream_response(frames)
        case Operation.CHAT, _:
            return json_response(chat_body(model))
        case Operation.COMPLETIONS, _:
            return json_response(completion_body(model))
        case Operation.RESPONSES, _:
            return json_response(response_body(model))
        case Operation.MESSAGES, _:
            return json_response(message_body(model))
        case Operation.EMBEDDINGS, _:
            return json_response(embeddings_body(model))
    return json_response(counted_body())
