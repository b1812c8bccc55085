"""The wait for the operator, with real requests and a clock of the test."""

import pytest

from provider_agent.agent.cli.setup.pairing_client import PairingClient
from provider_agent.agent.cli.setup.pairing_messages import (
    Activation,
    PairCode,
    PairingFailed,
)
from provider_agent.agent.cli.setup.waiting import (
    MAX_SILENCE_S,
    POLL_INTERVAL_S,
    WaitingClock,
    wait_for_activation,
)
from tests.kit.fake_clock import FakeClock
from tests.kit.pairing_server import (
    ACTIVE,
    EXPIRED,
    PAIR_CODE,
    PENDING,
    POLL_TOKEN,
    PROVIDER_ID,
    PairingServer,
    json_answer,
    text_answer,
)


class Wait:
    """One wait, and what it has shown.

    Attributes:
        sleeps: the pauses, in seconds.
        shown: the remaining seconds, and the problem.
    """

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self.shown: list[tuple[float, str]] = []
        self._clock = FakeClock()

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._clock.now += seconds

    async def run(self, server: PairingServer, valid_s: float = 600.0) -> Activation | None:
        client = PairingClient(server.url)
        try:
            return await wait_for_activation(
                client,
                PairCode(PAIR_CODE, POLL_TOKEN, valid_s),
                (),
                WaitingClock(self._clock, self._sleep),
                lambda left_s, problem: self.shown.append((left_s, problem)),
            )
        finally:
            await client.close()


@pytest.fixture
def wait() -> Wait:
    return Wait()


async def test_pending_code_is_polled_until_it_is_active(wait: Wait) -> None:
    async with PairingServer(PENDING, PENDING, ACTIVE) as server:
        activation = await wait.run(server)

    assert activation is not None
    assert activation.provider_id == PROVIDER_ID
    assert wait.sleeps == [POLL_INTERVAL_S, POLL_INTERVAL_S]
    assert wait.shown == [(600.0, ""), (600.0 - POLL_INTERVAL_S, "")]


async def test_code_that_the_server_calls_expired_ends_the_wait(wait: Wait) -> None:
    async with PairingServer(PENDING, EXPIRED) as server:
        assert await wait.run(server) is None


async def test_wait_ends_by_itself_after_a_last_poll_at_the_expiry(wait: Wait) -> None:
    async with PairingServer(PENDING) as server:
        assert await wait.run(server, valid_s=2.0) is None

    assert wait.sleeps == pytest.approx([0.8, 0.8, 0.4])
    assert len(server.polled) == 4


async def test_code_entered_in_the_last_moment_is_a_pairing(wait: Wait) -> None:
    async with PairingServer(PENDING, PENDING, ACTIVE) as server:
        assert await wait.run(server, valid_s=1.0) is not None


async def test_failed_polls_are_repeated_and_shown(wait: Wait) -> None:
    async with PairingServer(PENDING, text_answer(b"", 502), PENDING, ACTIVE) as server:
        assert await wait.run(server) is not None

    assert [problem for _, problem in wait.shown] == [
        "",
        "the server answered with HTTP status 502",
        "",
    ]


async def test_server_that_fails_for_long_ends_the_wait(wait: Wait) -> None:
    async with PairingServer(PENDING, text_answer(b"", 502)) as server:
        with pytest.raises(PairingFailed, match="502"):
            await wait.run(server)

    assert MAX_SILENCE_S - POLL_INTERVAL_S <= sum(wait.sleeps) <= MAX_SILENCE_S + 1


async def test_one_answer_allows_the_full_time_of_silence_again(wait: Wait) -> None:
    failures = [text_answer(b"", 502)] * 50  # 40 s
    async with PairingServer(*failures, PENDING, *failures, ACTIVE) as server:
        assert await wait.run(server) is not None


async def test_refused_poll_ends_the_wait_at_once(wait: Wait) -> None:
    async with PairingServer(json_answer({}, 403)) as server:
        with pytest.raises(PairingFailed, match="403"):
            await wait.run(server)

    assert wait.sleeps == []


@pytest.mark.parametrize(("asked", "pause_s"), [("7", 7.0), ("86000", 30.0), ("0", 0.8)])
async def test_pause_that_the_server_asks_for_is_kept_within_limits(
    asked: str, pause_s: float, wait: Wait
) -> None:
    async with PairingServer(json_answer({}, 503, **{"Retry-After": asked}), ACTIVE) as server:
        assert await wait.run(server) is not None

    assert wait.sleeps == [pause_s]
