import asyncio

import pytest

from provider_agent.adapters.base import BackendHealth, BackendModel, Operation, Unreachable
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.backends.offer_groups import ServedModel
from provider_agent.agent.cli.check.backends import (
    check_backend_state,
    missing_offer,
    skipped_backend,
)
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.config import Price
from tests.kit.scripted_backend import ScriptedBackend, model

CHAT_ONLY = frozenset({Operation.CHAT})


def state_of(
    *models: BackendModel, reachable: bool = True, error: str | None = None
) -> BackendState:
    backend = ScriptedBackend("scripted:http://b", *models)
    return BackendState(backend, BackendHealth(reachable, 3.0, error), models, capacity=4)


async def check_successfully(state: BackendState) -> list[Finding]:
    """Check the backend, whose completions all succeed."""
    backend = state.backend
    assert isinstance(backend, ScriptedBackend)
    checking = asyncio.create_task(check_backend_state(state, request_completions=True))
    for _ in {wire for found in state.models for wire in found.formats}:
        (await backend.next_run()).answer(b"data: x\n\n")
    return await checking


def test_finding_of_a_skipped_backend_has_reason_and_advice() -> None:
    skipped = SkippedBackend("venice", "venice", "the environment variable K is not set")

    finding = skipped_backend(skipped)

    assert (finding.target, finding.outcome) == ("venice", Outcome.FAILED)
    assert finding.details == "the environment variable K is not set"
    assert finding.what_to_do == "set the key, or remove the backend"


async def test_no_request_is_sent_to_an_unreachable_backend() -> None:
    (finding,) = await check_backend_state(
        state_of(reachable=False, error="connection refused"), request_completions=True
    )

    assert (finding.outcome, finding.details) == (Outcome.FAILED, "connection refused")
    assert finding.what_to_do == "start the server, or check `url` under [[backends]]"


@pytest.mark.parametrize(
    ("health", "advice"),
    [
        (BackendHealth(False, key_refused=True), "check `api_key_env` or `api_key_file`"),
        (BackendHealth(False, wrong_server=True), "check `kind` and `url`"),
        (BackendHealth(False, timed_out=True), "restart the server if it is frozen"),
        (BackendHealth(False, answered=True), "check the log of the server, and `kind`"),
        (BackendHealth(False, loading=True, answered=True), "wait until it has loaded its model"),
    ],
)
async def test_advice_depends_on_the_cause(health: BackendHealth, advice: str) -> None:
    # In an earlier version, the advice for a server that answered 404 was to start it.
    (finding,) = await check_backend_state(
        BackendState(ScriptedBackend(), health), request_completions=True
    )

    assert advice in finding.what_to_do


async def test_advice_for_a_passthrough_does_not_suggest_starting_a_server() -> None:
    class Remote(ScriptedBackend):
        native = False

    state = BackendState(Remote(), BackendHealth(False, None))

    (finding,) = await check_backend_state(state, request_completions=True)

    assert finding.details == "unreachable"
    assert finding.what_to_do == "check `url` under [[backends]], and the network"


@pytest.mark.parametrize(
    ("native", "price", "fails", "fails_in_usepod"),
    [
        (True, None, False, True),
        (True, Price(1, 2), False, False),
        (True, Price(1, 0), False, True),
        (False, Price(1, 2), False, False),
        (False, None, True, True),
    ],
)
def test_check_fails_if_there_are_models_but_none_would_be_offered(
    native: bool, price: Price | None, fails: bool, fails_in_usepod: bool
) -> None:
    served = ServedModel(ScriptedBackend(), model("m", native=native), price)

    for needs_price, expected in ((False, fails), (True, fails_in_usepod)):
        findings = missing_offer([served], needs_price=needs_price)
        assert [one.outcome for one in findings] == [Outcome.FAILED] * expected
    assert missing_offer([], needs_price=True) == []


async def test_backend_without_models_fails() -> None:
    (finding,) = await check_backend_state(state_of(), request_completions=True)

    assert (finding.outcome, finding.details) == (
        Outcome.FAILED,
        "reachable, but has no model to offer",
    )
    assert "load a model" in finding.what_to_do


@pytest.mark.parametrize(
    ("count", "suffix"),
    [
        (1, "; not offered: m0 (expired)"),
        (2, "; not offered: m0 (expired) and 1 other"),
        (3, "; not offered: m0 (expired) and 2 others"),
    ],
)
async def test_first_model_that_is_not_offered_is_named(count: int, suffix: str) -> None:
    withheld = tuple(model(f"m{number}", withheld="expired") for number in range(count))
    state = BackendState(ScriptedBackend(), BackendHealth(True, 3.0), (), withheld=withheld)

    (finding,) = await check_backend_state(state, request_completions=True)

    assert finding.details.endswith(suffix)


async def test_one_completion_is_requested_in_each_format() -> None:
    found = await check_successfully(state_of(model("a")))

    assert [(f.component, f.target, f.outcome) for f in found] == [
        ("backend", "scripted:http://b", Outcome.OK),
        ("completion", "a (openai)", Outcome.OK),
        ("completion", "a (anthropic)", Outcome.OK),
    ]
    assert found[0].details == (
        "responded in 3 ms, 4 concurrent jobs; a (chat, messages; 4,096 tokens)"
    )
    assert found[1].details.startswith("first byte after ")
    assert found[1].details.endswith(" ms, tokens 3 in, 4 out, 9 bytes")


async def test_format_without_a_model_is_omitted() -> None:
    found = await check_successfully(state_of(model("a", operations=CHAT_ONLY)))

    assert [f.target for f in found[1:]] == ["a (openai)"]


async def test_list_of_models_is_shortened() -> None:
    models = [model(name, operations=CHAT_ONLY, context_window=None) for name in "abcde"]

    found = await check_successfully(state_of(*models))

    assert found[0].details == (
        "responded in 3 ms, 4 concurrent jobs; a (chat; context window unknown), "
        "b (chat; context window unknown), "
        "c (chat; context window unknown) and 2 more"
    )


async def test_completions_can_be_skipped() -> None:
    found = await check_backend_state(state_of(model("a")), request_completions=False)

    assert [f.outcome for f in found] == [Outcome.OK, Outcome.SKIPPED, Outcome.SKIPPED]


async def test_failed_completion_has_reason_and_advice() -> None:
    state = state_of(model("a", operations=CHAT_ONLY))
    assert isinstance(state.backend, ScriptedBackend)
    checking = asyncio.create_task(check_backend_state(state, request_completions=True))
    (await state.backend.next_run()).fail(Unreachable("the server is gone"))

    _, finding = await checking

    assert finding.outcome is Outcome.FAILED
    assert finding.details == "backend_unreachable: the server is gone"
    assert "curl" in finding.what_to_do


@pytest.mark.parametrize("request_completions", [True, False])
async def test_every_failure_has_advice(request_completions: bool) -> None:
    for state in (state_of(), state_of(reachable=False)):
        findings = await check_backend_state(state, request_completions=request_completions)
        assert all(finding.what_to_do for finding in findings)
