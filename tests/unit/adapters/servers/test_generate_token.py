"""`HttpBackend.generate_token`: whether a server generates a token of a model."""

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import BackendModel, BadStatus, Operation
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.token_probe import token_probe
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeOpenAICompatible, FakeResponse, json_response
from tests.kit.fakes.openai_compatible import MODEL
from tests.unit.adapters.conftest import Connect
from tests.unit.adapters.requests.prepared import HTTP_KINDS


@pytest.fixture
def model() -> BackendModel:
    return BackendModel(
        model_id="offered",
        context_window=None,
        native=True,
        operations=frozenset({Operation.EMBEDDINGS, Operation.CHAT}),
        upstream_id=MODEL,
    )


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (json_response({"choices": []}), None),
        (json_response({"error": "max_tokens is too small"}, 400), None),
        (json_response({"error": "the engine failed"}, 500), ErrorCode.BACKEND_ERROR),
        (json_response({"error": "the queue is full"}, 503), ErrorCode.BACKEND_OVERLOADED),
    ],
)
async def test_only_a_failure_of_the_server_is_an_error(
    connect: Connect, model: BackendModel, response: FakeResponse, code: ErrorCode | None
) -> None:
    async with FakeOpenAICompatible() as server:
        server.script_jobs(response)
        try:
            await connect(server).generate_token(model)
            raised = None
        except BadStatus as error:
            raised = error.code

        (request,) = server.jobs
        assert (request.json["model"], request.json["max_tokens"]) == (MODEL, 1)
    assert raised is code


async def test_model_without_a_generating_operation_is_not_tested(
    connect: Connect, model: BackendModel
) -> None:
    async with FakeOpenAICompatible() as server:
        only_counts = replace(model, operations=frozenset({Operation.COUNT_TOKENS}))
        await connect(server).generate_token(only_counts)

        assert server.requests == []


@pytest.mark.parametrize("operation", sorted(set(Operation) - {Operation.COUNT_TOKENS}))
def test_every_generating_operation_has_a_request_for_one_token(operation: Operation) -> None:
    probe = token_probe({operation}, "m")
    assert probe is not None
    assert probe[0] is operation
    limits = {name: value for name, value in probe[1].items() if name.startswith("max_")}
    assert list(limits.values()) == ([] if operation is Operation.EMBEDDINGS else [1])


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_only_native_backends_confirm_failures_because_a_token_costs_money(kind: str) -> None:
    adapter = backend_class(kind)
    assert adapter.confirms_failures is adapter.native
