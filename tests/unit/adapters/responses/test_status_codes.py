import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.status_codes import (
    MAX_MESSAGE_CHARS,
    code_for_error,
    code_for_status,
    retry_advice,
    server_message,
)
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeLlamaCpp, FakeOllama, FakeOpenRouter, FakeResponse, FakeVllm

LLAMACPP = b'{"error":{"type":"exceed_context_size_error","n_ctx":2048}}'
VLLM = b'{"error":{"message":"This model\'s maximum context length is 2048 tokens."}}'
BACKEND_ERROR = ErrorCode.BACKEND_ERROR
OPENAI = b'{"error":{"code":"context_length_exceeded"}}'


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b"", ErrorCode.BAD_REQUEST),
        (
            400,  # vLLM 0.32
            b'{"error":{"message":"max_tokens=99 cannot be greater than max_model_len=9."}}',
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (422, b'{"detail":"no"}', ErrorCode.BAD_REQUEST),
        (405, b"", ErrorCode.BAD_REQUEST),
        (415, b"", ErrorCode.BAD_REQUEST),
        (401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (402, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (403, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (404, b"", ErrorCode.MODEL_NOT_LOADED),
        (410, b"", ErrorCode.MODEL_NOT_LOADED),
        # A proxy's 407 reached the client as its own invalid request.
        (407, b"", ErrorCode.BACKEND_ERROR),
        (421, b"", ErrorCode.BACKEND_ERROR),
        (426, b"", ErrorCode.BACKEND_ERROR),
        (431, b"", ErrorCode.BACKEND_ERROR),
        (511, b"", ErrorCode.BACKEND_ERROR),
        (408, b"", ErrorCode.BACKEND_TIMEOUT),
        (504, b"", ErrorCode.BACKEND_TIMEOUT),
        (429, b"", ErrorCode.BACKEND_OVERLOADED),
        (503, b"", ErrorCode.BACKEND_OVERLOADED),
        (529, b"", ErrorCode.BACKEND_OVERLOADED),
        (501, b"", ErrorCode.FORMAT_NOT_SUPPORTED),
        (500, b"", ErrorCode.BACKEND_ERROR),
        (502, b"", ErrorCode.BACKEND_ERROR),
        (524, b"", ErrorCode.BACKEND_ERROR),
        (301, b"", ErrorCode.INVALID_RESPONSE),
        (400, LLAMACPP, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (500, LLAMACPP, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, VLLM, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, OPENAI, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (413, OPENAI, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (503, VLLM, ErrorCode.BACKEND_OVERLOADED),
        (401, VLLM, ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (400, b'{"error":{"message":"?","param":"model"}}', ErrorCode.MODEL_NOT_LOADED),
        (400, b'{"error":{"message":"No models loaded."}}', ErrorCode.MODEL_NOT_LOADED),
        (400, b'{"error":{"message":"model \'x\' not found"}}', ErrorCode.MODEL_NOT_LOADED),
        (400, b'{"error":{"message":"?","param":"top_p"}}', ErrorCode.BAD_REQUEST),
        (
            400,
            b'{"error":{"message":"The model does not support Chat Completions API"}}',
            ErrorCode.FORMAT_NOT_SUPPORTED,
        ),
        (400, b'{"error":{"message":"x does not support chat"}}', ErrorCode.FORMAT_NOT_SUPPORTED),
        (400, b'{"error":"\\"tiny\\" does not support chat"}', ErrorCode.FORMAT_NOT_SUPPORTED),
        (400, b'{"error":{"message":"?","code":"model_not_found"}}', ErrorCode.MODEL_NOT_LOADED),
        (400, b'{"message":"Specified model not found"}', ErrorCode.MODEL_NOT_LOADED),
        # The client's text, such as the name of a tool, inside the server's message.
        *(
            (400, b'{"error":{"message":"Tool \'%s\' is unknown"}}' % name, ErrorCode.BAD_REQUEST)
            for name in (
                *(b"model_x not found", b"model_not_found", b"no model loaded"),
                *(b"does not support chat", b"does not support Chat API"),
            )
        ),
        (400, b'{"error":{"message":"x does not support tools"}}', ErrorCode.BAD_REQUEST),
        (500, b'{"error":{"message":"\'messages\' is required"}}', ErrorCode.BAD_REQUEST),
        (500, b'{"error":{"message":"image input is not supported"}}', ErrorCode.BAD_REQUEST),
        (
            400,
            b'{"error":{"message":"\\"tiny\\" does not support thinking"}}',
            ErrorCode.BAD_REQUEST,
        ),
        (400, b'{"error":{"message":"invalid JSON schema in format"}}', ErrorCode.BAD_REQUEST),
        (
            404,  # vLLM 0.32
            (
                b'{"error":{"message":"Response with id \'x\' not found.",'
                b'"type":"invalid_request_error","param":"response_id","code":404}}'
            ),
            ErrorCode.BAD_REQUEST,
        ),
        (
            500,
            (
                b'{"error":{"code":500,"message":"input (700 tokens) is too large to process. '
                b'increase the physical batch size (current batch size: 512)"}}'
            ),
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        # Failures of the server.
        (500, b'{"error":{"message":"Compute error.","type":"server_error"}}', BACKEND_ERROR),
        (500, b'{"error":{"message":"\'NoneType\' object has no attribute"}}', BACKEND_ERROR),
        (500, b'{"error":{"message":"error parsing tool call: raw=\'x\'"}}', BACKEND_ERROR),
        (
            403,
            b'{"error":{"code":403,"message":"Key limit exceeded (total limit)."}}',
            ErrorCode.AUTH_REJECTED_BY_BACKEND,
        ),
        (
            403,
            b'{"error":{"code":403,"metadata":{"reasons":["x"],"flagged_input":"..."}}}',
            ErrorCode.BAD_REQUEST,
        ),
    ],
)
def test_status_maps_to_error_code(status: int, body: bytes, code: ErrorCode) -> None:
    assert code_for_status(status, body) is code


@pytest.mark.parametrize(
    "response",
    [
        *FakeLlamaCpp.invalid_requests(),
        *FakeVllm.invalid_requests(),
        *FakeOllama.invalid_requests(),
        *FakeOpenRouter.blocked(),
    ],
)
def test_invalid_request_is_the_clients_error_whatever_the_status(response: FakeResponse) -> None:
    body = b"".join(response.chunks)

    assert code_for_status(response.status, body) is ErrorCode.BAD_REQUEST
    assert server_message(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"too  long\\n"}}', "too long"),
        (b'{"type":"error","error":{"type":"x","message":"no"}}', "no"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"code":500,"message":"bare"}', "bare"),
        (b'{"detail":"Not Found"}', ""),
        (b'{"error":{"message":7}}', ""),
        (b'{"error":{"message":"here","type":null,"code":{"odd":1}},"type":[]}', "here"),
        (b'{"error_type":"x","error_message":"of Venice"}', "of Venice"),
        (b'{"error":null,"message":"beside"}', "beside"),
        (b'{"type":"response.failed","response":{"error":{"message":"deep"}}}', "deep"),
        (b'{"type":"response.failed","response":7}', ""),
        (b'{"error":{"message":"bad \xff byte"}}', "bad \ufffd byte"),
        (b"<html>", ""),
        (b"", ""),
        (b"[" * 100_000, ""),
        (b'{"error":"' + b"x" * 9999 + b'"}', "x" * MAX_MESSAGE_CHARS),
    ],
)
def test_server_message_is_read_from_any_known_shape(body: bytes, text: str) -> None:
    assert server_message(body) == text


ERRORS = {
    "vllm busy": (
        b'{"error":{"message":"The engine is busy.","type":"Service Unavailable","code":503}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "vllm engine": (
        b'{"error":{"message":"EngineCore","type":"InternalServerError","code":500}}',
        ErrorCode.BACKEND_ERROR,
    ),
    "vllm model": (
        b'{"error":{"message":"?","type":"NotFoundError","param":"model","code":404}}',
        ErrorCode.MODEL_NOT_LOADED,
    ),
    "vllm messages busy": (
        b'{"type":"error","error":{"type":"Service Unavailable","message":"busy"}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "vllm messages context": (
        b'{"type":"error","error":{"type":"BadRequestError","message":"maximum context length"}}',
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "vllm messages engine": (
        b'{"type":"error","error":{"type":"internal_error","message":"2 validation errors"}}',
        ErrorCode.BACKEND_ERROR,
    ),
    "vllm key": (b'{"error":"Unauthorized"}', ErrorCode.BACKEND_ERROR),
    "llamacpp context": (
        b'{"error":{"code":400,"message":"?","type":"exceed_context_size_error","n_ctx":2048}}',
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "llamacpp context as 500": (
        b'{"error":{"code":500,"message":"context size exceeded","type":"server_error"}}',
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "llamacpp without an error object": (
        b'{"code":500,"message":"slot failed","type":"server_error"}',
        ErrorCode.BACKEND_ERROR,
    ),
    "llamacpp loading": (
        b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "llamacpp unsupported feature": (
        b'{"code":501,"message":"?","type":"not_supported_error"}',
        ErrorCode.FORMAT_NOT_SUPPORTED,
    ),
    "ollama": (
        b'{"error":{"message":"?","type":"api_error","param":null,"code":null}}',
        ErrorCode.BACKEND_ERROR,
    ),
    "ollama model": (
        b'{"type":"error","error":{"type":"not_found_error","message":"?"},"request_id":"req_1"}',
        ErrorCode.MODEL_NOT_LOADED,
    ),
    "lmstudio unloaded": (b'{"error":"Model is unloaded."}', ErrorCode.BACKEND_ERROR),
    "lmstudio overflow": (
        b'{"error":{"message":"tokens to keep is greater than the context length"},"message":"?"}',
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "openrouter limited": (
        b'{"id":"g","choices":[],"error":{"code":429,"message":"?","metadata":{}}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "openrouter provider": (
        b'{"error":{"code":502,"message":"Provider returned error"}}',
        ErrorCode.BACKEND_ERROR,
    ),
    "openrouter moderation": (
        b'{"error":{"code":403,"message":"?","metadata":{"flagged_input":"..."}}}',
        ErrorCode.BAD_REQUEST,
    ),
    "openrouter code as text": (b'{"error":{"code":"503"}}', ErrorCode.BACKEND_OVERLOADED),
    "venice": (
        b'{"error_type":"inference_failed","error_message":"Upstream failed"}',
        ErrorCode.BACKEND_ERROR,
    ),
    "venice limited": (
        b'{"error_type":"rate_limit_exceeded","error_message":"?"}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "venice context": (
        b'{"error":{"message":"Too long.","code":"context_length_exceeded"}}',
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "anthropic overloaded": (
        b'{"type":"error","error":{"type":"overloaded_error","message":"?"}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "anthropic limited": (
        b'{"type":"error","error":{"type":"rate_limit_error","message":"?"}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "anthropic request": (
        b'{"type":"error","error":{"type":"invalid_request_error","message":"?"}}',
        ErrorCode.BAD_REQUEST,
    ),
    "anthropic request too large": (
        b'{"type":"error","error":{"type":"request_too_large","message":"?"}}',
        ErrorCode.BAD_REQUEST,
    ),
    "anthropic key": (
        b'{"type":"error","error":{"type":"authentication_error","message":"?"}}',
        ErrorCode.AUTH_REJECTED_BY_BACKEND,
    ),
    "anthropic timeout": (
        b'{"type":"error","error":{"type":"timeout_error","message":"?"}}',
        ErrorCode.BACKEND_TIMEOUT,
    ),
    "responses failed": (
        b'{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "responses error": (
        b'{"type":"error","code":"server_error","message":"?","param":null}',
        ErrorCode.BACKEND_ERROR,
    ),
    "quota": (
        b'{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}',
        ErrorCode.AUTH_REJECTED_BY_BACKEND,
    ),
    "success status as a code": (b'{"error":{"code":200}}', ErrorCode.BACKEND_ERROR),
    "code outside the status range": (
        b'{"error":{"code":7,"type":"overloaded_error"}}',
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "not JSON": (b"it failed", ErrorCode.BACKEND_ERROR),
    "empty": (b"", ErrorCode.BACKEND_ERROR),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_without_a_status_maps_to_error_code(name: str) -> None:
    body, code = ERRORS[name]

    assert code_for_error(body) is code


@pytest.mark.parametrize(
    ("availability", "advice"),
    [
        (b"", (None, None)),
        (b',"availability":null', (None, None)),
        (b',"availability":7', (None, None)),
        (b',"availability":{}', (None, None)),
        (b',"availability":{"retryable":true}', (True, None)),
        (b',"availability":{"retryable":false,"retry_after":null}', (False, None)),
        (b',"availability":{"retryable":true,"retry_after":30}', (True, 30.0)),
        (b',"availability":{"retryable":"yes","retry_after":"soon"}', (None, None)),
        (b',"availability":{"retryable":true,"retry_after":-1}', (True, None)),
        (b',"availability":{"retryable":true,"retry_after":true}', (True, None)),
        (b',"availability":{"retryable":true,"retry_after":1e12}', (True, None)),
    ],
)
def test_retry_advice_is_read_from_an_openrouter_error(
    availability: bytes, advice: tuple[bool | None, float | None]
) -> None:
    assert retry_advice(b'{"error":{"code":503' + availability + b"}}") == advice


@given(st.binary())
def test_arbitrary_bodies_raise_nothing(body: bytes) -> None:
    assert isinstance(code_for_error(body), ErrorCode)
    assert isinstance(server_message(body), str)
    assert retry_advice(body) == (None, None)
