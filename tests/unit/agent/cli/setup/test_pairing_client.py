import re
import socket
from collections.abc import AsyncIterator

import pytest

from provider_agent.agent.cli.setup.pairing_client import PairingClient
from provider_agent.agent.cli.setup.pairing_messages import (
    CODE_VALID_S,
    MAX_VALID_S,
    ActivatedModel,
    Activation,
    DetectedBackend,
    Expired,
    PairCode,
    PairingFailed,
    Pending,
)
from provider_agent.agent.config import Price
from provider_agent.agent.version import agent_version
from tests.kit.pairing_server import (
    ACTIVE,
    EXPIRED,
    PAIR_CODE,
    PENDING,
    POLL_TOKEN,
    PROVIDER_ID,
    PairingServer,
    dropped,
    issued,
    json_answer,
    text_answer,
)
from tests.kit.wrong_servers import closed_port

CODE = PairCode(PAIR_CODE, POLL_TOKEN, 600.0)
BACKENDS = (DetectedBackend("vllm", "http://127.0.0.1:8000", ("a", "b")),)


@pytest.fixture
async def clients() -> AsyncIterator[list[PairingClient]]:
    """Clients that are closed after the test."""
    made: list[PairingClient] = []
    yield made
    for client in made:
        await client.close()


def client_of(server: PairingServer, clients: list[PairingClient]) -> PairingClient:
    clients.append(PairingClient(server.url))
    return clients[-1]


async def test_code_is_requested_for_the_public_key(clients: list[PairingClient]) -> None:
    async with PairingServer(issue=issued(300)) as server:
        code = await client_of(server, clients).issue("KEY=")

    assert server.issues == [{"agent_pubkey": "KEY="}]
    assert (code.text, code.poll_token) == (PAIR_CODE, POLL_TOKEN)
    assert 299 <= code.valid_s <= 302  # the header `Date` has whole seconds
    assert POLL_TOKEN not in repr(code)


@pytest.mark.parametrize(
    ("expires_at", "valid_s"),
    [
        ("2999-01-01T00:00:00.123456789+00:00", MAX_VALID_S),
        ("soon", CODE_VALID_S),
        (None, CODE_VALID_S),
        (5, CODE_VALID_S),
        ("2001-01-01T00:00:00Z", CODE_VALID_S),
        ("2999-01-01T00:00:00", MAX_VALID_S),
        ("0001-01-01T00:00:00+23:00", CODE_VALID_S),
    ],
)
async def test_expiry_without_sense_is_replaced(
    expires_at: object, valid_s: float, clients: list[PairingClient]
) -> None:
    answer = {**issued(), "expires_at": expires_at}
    async with PairingServer(issue=answer) as server:
        assert (await client_of(server, clients).issue("KEY=")).valid_s == valid_s


async def test_poll_reports_the_servers_of_this_machine(clients: list[PairingClient]) -> None:
    async with PairingServer(PENDING) as server:
        assert await client_of(server, clients).poll(CODE, BACKENDS) == Pending()

    assert server.polled == [
        {
            "poll_token": POLL_TOKEN,
            "capabilities": {
                "backends": [
                    {"kind": "vllm", "url": "http://127.0.0.1:8000", "models": ["a", "b"]}
                ],
                "agent_version": agent_version(),
            },
        }
    ]


async def test_every_success_status_is_accepted(clients: list[PairingClient]) -> None:
    async with PairingServer(json_answer(PENDING, 202), issue=json_answer(issued(), 201)) as server:
        client = client_of(server, clients)
        assert (await client.issue("KEY=")).text == PAIR_CODE
        assert await client.poll(CODE, ()) == Pending()


@pytest.mark.parametrize("answer", [EXPIRED, json_answer({}, 410)])
async def test_expired_code(answer: object, clients: list[PairingClient]) -> None:
    async with PairingServer(answer) as server:
        assert await client_of(server, clients).poll(CODE, ()) == Expired()


async def test_activation_has_provider_id_and_models(clients: list[PairingClient]) -> None:
    async with PairingServer(ACTIVE) as server:
        result = await client_of(server, clients).poll(CODE, ())

    assert result == Activation(
        PROVIDER_ID,
        (
            ActivatedModel("qwen3:8b", Price(30_000, 60_000), 6),
            ActivatedModel("other", Price(1_000_000, 2_000_000), 4),
        ),
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"provider_id": None}, Activation("", ())),
        ({"provider_id": "two\nlines"}, Activation("", ())),
        ({"model_config": None}, Activation(PROVIDER_ID, ())),
        ({"model_config": "none"}, Activation(PROVIDER_ID, ())),
        (
            {"model_config": [5, {"model_id": "a\n"}, {"input_per_1m": 1}, {"model_id": "m"}]},
            Activation(PROVIDER_ID, (ActivatedModel("m", None, 4),)),
        ),
        (
            {"model_config": [{"model_id": "m", "input_per_1m": 1, "output_per_1m": 2**60}]},
            Activation(PROVIDER_ID, (ActivatedModel("m", None, 4),)),
        ),
        (
            {"model_config": [{"model_id": "m", "max_concurrent": -1}]},
            Activation(PROVIDER_ID, (ActivatedModel("m", None, 1),)),
        ),
    ],
)
async def test_malformed_part_of_an_activation_does_not_fail_it(
    changed: dict[str, object], expected: Activation, clients: list[PairingClient]
) -> None:
    answer = {**ACTIVE, "model_config": [], **changed}
    async with PairingServer(answer) as server:
        assert await client_of(server, clients).poll(CODE, ()) == expected


FAILURES = [
    (json_answer({"error": "no such token"}, 404), "HTTP status 404: no such token", False),
    (json_answer({"error": {"message": "a\nb"}}, 403), "HTTP status 403: a\ufffdb", False),
    (json_answer({"message": f"{POLL_TOKEN} used"}, 400), "HTTP status 400: [secret] used", False),
    (json_answer(["x"], 400), "HTTP status 400", False),
    (text_answer(b"", 302), "HTTP status 302", False),
    (text_answer(b"[" * 100_000, 400), "HTTP status 400", False),
    (json_answer({}, 429), "HTTP status 429", True),
    (text_answer(b"<html>", 502), "HTTP status 502", True),
    (text_answer(b"<html>"), "not usable: it is not the expected JSON", True),
    (text_answer(b"[" * 100_000), "not usable: it is not the expected JSON", True),
    (text_answer(b'{"status":5}'), "not usable: it is not the expected JSON", True),
    (text_answer(b'{"status":"' + b"x" * 2_000_000), "not usable: it is too long", True),
    (json_answer({"status": "new\x1b"}), 'the status "new\ufffd" is', True),
    (dropped, "closed the connection without a response", True),
]


@pytest.mark.parametrize(("answer", "reason", "is_temporary"), FAILURES)
async def test_answer_that_is_no_state(
    answer: object, reason: str, is_temporary: bool, clients: list[PairingClient]
) -> None:
    async with PairingServer(answer) as server:
        with pytest.raises(PairingFailed, match=re.escape(reason)) as caught:
            await client_of(server, clients).poll(CODE, ())

    assert caught.value.is_temporary == is_temporary
    assert POLL_TOKEN not in str(caught.value)


async def test_pause_that_the_server_asks_for_is_known(clients: list[PairingClient]) -> None:
    answer = json_answer({}, 429, **{"Retry-After": "7"})
    async with PairingServer(answer) as server:
        with pytest.raises(PairingFailed) as caught:
            await client_of(server, clients).poll(CODE, ())

    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pair_code": ""}, "the code is not usable"),
        ({"pair_code": "\x1b[2J"}, "the code is not usable"),
        ({"pair_code": "x" * 33}, "the code is not usable"),
        ({"poll_token": "x" * 4097}, "its token is too long"),
    ],
)
async def test_code_that_cannot_be_shown_or_sent_is_refused(
    changed: dict[str, object], reason: str, clients: list[PairingClient]
) -> None:
    async with PairingServer(issue={**issued(), **changed}) as server:
        with pytest.raises(PairingFailed, match=reason):
            await client_of(server, clients).issue("KEY=")


async def test_server_that_accepts_and_is_silent_is_a_temporary_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = PairingClient(url, request_timeout_s=0.1)
        with pytest.raises(PairingFailed, match="no response within 0 s") as caught:
            await client.poll(CODE, ())
        await client.close()

    assert caught.value.is_temporary


async def test_server_that_does_not_answer_is_a_temporary_failure() -> None:
    client = PairingClient(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(PairingFailed, match="connection refused") as caught:
        await client.issue("KEY=")
    await client.close()

    assert caught.value.is_temporary
