from datetime import UTC, datetime
from pathlib import Path

import pytest

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.availability.schedule import Schedule, Window
from provider_agent.agent.control.commands import Command, Commands
from provider_agent.agent.control.pause_store import PauseStore

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
NIGHT = Schedule((Window(frozenset(range(7)), 22 * 60, 6 * 60),), UTC)
BACKENDS = {"vllm:http://a": "vllm", "vllm:http://b": "vllm", "ollama:http://c": "ollama"}


class Agent:
    """The state that commands change, and what they have reported."""

    def __init__(
        self,
        folder: Path,
        schedule: Schedule | None = None,
        in_flight: int = 0,
        *,
        stopping: bool = False,
    ) -> None:
        self.now = NOON
        self.suspended: frozenset[str] = frozenset()
        self.store = PauseStore(folder / "key")
        self.hours = ServingHours(
            schedule or Schedule(windows=(Window(frozenset(range(7)), 0, 1440),)),
            on_backends=self._suspend,
            wall_clock=lambda: self.now,
        )
        self.hours.check()
        self.commands = Commands(
            self.hours,
            self.store,
            backends=lambda: BACKENDS,
            in_flight=lambda: in_flight,
            stopping=lambda: stopping,
            wall_clock=lambda: self.now,
        )

    def _suspend(self, backend_ids: frozenset[str]) -> None:
        self.suspended = backend_ids

    async def message(
        self, action: str, backend: str | None = None, for_s: float | None = None
    ) -> str:
        assert action in ("pause", "resume")
        reply = await self.commands.carry_out(Command(action, backend, for_s))  # type: ignore[arg-type]
        return reply.message


async def test_pause_and_resume_the_agent(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert await agent.message("pause") == "the agent is paused until `resume`"
    assert agent.hours.closed.is_set()
    assert agent.store.load().keys() == {""}
    assert await agent.message("resume") == "the agent is no longer paused"
    assert agent.hours.opened.is_set()
    assert not agent.store.path.exists()


async def test_pause_with_an_end(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    expected = "the agent is paused until Mon 2026-06-01 14:00 +00:00"
    assert await agent.message("pause", for_s=7200) == expected
    agent.now += 7200
    agent.hours.check()
    assert agent.hours.opened.is_set()
    assert await agent.message("resume") == "the agent was not paused"


async def test_second_pause_replaces_the_first(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    await agent.message("pause")
    expected = "the agent is paused until Mon 2026-06-01 12:30 +00:00; it was paused before"
    assert await agent.message("pause", for_s=1800) == expected


@pytest.mark.parametrize(
    ("jobs", "text"), [(1, "1 running job finishes first"), (2, "2 running jobs finish first")]
)
async def test_pause_reports_running_jobs(jobs: int, text: str, tmp_path: Path) -> None:
    assert (await Agent(tmp_path, in_flight=jobs).message("pause")).endswith(f"; {text}")


async def test_resume_outside_the_schedule_says_when_it_serves(tmp_path: Path) -> None:
    agent = Agent(tmp_path, NIGHT)
    outside = "outside its schedule until Mon 2026-06-01 22:00 +00:00"
    assert await agent.message("resume") == f"the agent was not paused, but {outside}"
    await agent.message("pause")
    reply = await agent.commands.carry_out(Command("resume"))
    assert reply.message == f"the agent is no longer paused, but {outside}"
    assert reply.availability is not None
    assert reply.availability.opens_at == "2026-06-01T22:00:00+00:00"


async def test_pause_that_ends_outside_the_schedule_shows_the_next_window(tmp_path: Path) -> None:
    agent = Agent(tmp_path, NIGHT)
    await agent.message("pause", for_s=11 * 3600)  # until 23:00
    assert agent.hours.opens_at() == "2026-06-01T23:00:00+00:00"
    await agent.message("pause", for_s=20 * 3600)  # until 08:00, after the window
    assert agent.hours.opens_at() == "2026-06-02T22:00:00+00:00"


async def test_pause_of_one_backend(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert await agent.message("pause", "vllm:http://a") == "vllm:http://a is paused until `resume`"
    assert await agent.message("pause", "ollama") == "ollama:http://c is paused until `resume`"
    assert agent.suspended == {"vllm:http://a", "ollama:http://c"}
    assert agent.hours.opened.is_set()
    await agent.message("pause")
    text = await agent.message("resume", "ollama")
    assert text == "ollama:http://c is no longer paused, but the agent is paused"
    assert agent.suspended == {"vllm:http://a"}


async def test_resume_of_the_agent_names_the_paused_backends(tmp_path: Path) -> None:
    """It said that the agent was not paused, while its backend stayed paused."""
    agent = Agent(tmp_path)
    await agent.message("pause", "ollama")
    still = "still paused: ollama:http://c: `provider-agent resume ollama:http://c`"
    assert await agent.message("resume") == f"the agent was not paused; {still}"
    await agent.message("pause")
    assert await agent.message("resume") == f"the agent is no longer paused; {still}"
    assert agent.suspended == {"ollama:http://c"}


@pytest.mark.parametrize("name", ["vllm", "vllm:http://x", "", "llama"])
async def test_backend_that_does_not_exist_or_is_not_unique(name: str, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    reply = await agent.commands.carry_out(Command("pause", name))
    assert not reply.ok
    assert reply.message.startswith(f'the agent has no backend "{name}"; ')
    assert agent.hours.pauses == {}


async def test_folder_that_is_not_writable_is_reported(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "missing")
    reply = await agent.commands.carry_out(Command("pause"))
    assert (reply.ok, reply.stored) == (True, False)
    assert "; this lasts until the next restart of the agent: " in reply.message
    assert agent.hours.closed.is_set()


async def test_stopping_agent_refuses_commands(tmp_path: Path) -> None:
    reply = await Agent(tmp_path, stopping=True).commands.carry_out(Command("pause"))
    assert (reply.ok, reply.message) == (False, "the agent is stopping")
