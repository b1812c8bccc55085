"""Real signals to a real agent: to read its settings again, and before it serves."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from provider_agent.protocol.frames import Capabilities, Draining, JobResult, JobStarted
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.integration.test_cli import ECHO, endless_job
from tests.kit.cli_process import start_command
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome

RELOADED = "configuration reloaded"
KEPT = "configuration not reloaded: the old settings stay in force"
KEYS = ("sk-FIRST-SERVER-KEY", "sk-SECOND-SERVER-KEY")


def settings(url: str, more: str = ECHO) -> str:
    return (
        f'[coordinator]\nurl = "{url}"\n[identity]\nkey_path = "identity.key"\n'
        f'[observability]\nprometheus_addr = "off"\n{more}'
    )


def write_config(home: Path, url: str, more: str = ECHO) -> None:
    (home / "agent.toml").write_text(settings(url, more), "utf-8")


class GuardedServer:
    """Any OpenAI-compatible server that wants a key; notes which it was shown."""

    def __init__(self) -> None:
        self.url = ""
        self.shown: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["GuardedServer"]:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.shown.append(request.headers.get("Authorization", ""))
        return web.json_response({"data": [{"id": "guarded"}]})


# --- SIGHUP ---------------------------------------------------------------------------------------


async def test_settings_change_while_a_job_runs(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_agent()
            link.acknowledges = False
            await agent.wait_for_log(" connected ")
            job = endless_job()
            await link.give(job)
            await link.next(JobStarted)

            more = f"{ECHO}max_concurrent = 2\n[limits]\nmax_concurrent = 3\n"
            write_config(tmp_path, coordinator.url, more)
            agent.signal(signal.SIGHUP)
            line = await agent.wait_for_log(RELOADED)
            assert 'applied=["backends","limits.max_concurrent"]' in line
            while (told := await link.next(Capabilities)).limits.max_concurrent != 3:
                pass
            assert [one.max_concurrent for one in told.models] == [2]

            later = new_job("echo")
            link.acknowledges = True
            await link.give(later)
            assert (await link.next(JobStarted, later.job_id)).backend_id == "echo#2"
            assert isinstance(await link.end(later.job_id), JobResult)
            assert isinstance(await link.end(job.job_id), JobResult)
            agent.signal(signal.SIGTERM)
            ended = await agent.wait()

    assert ended.code == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[limits]\nmax_concurrent = 0\n", "limits.max_concurrent: expected a whole number >= 1"),
        ("[pricing]\nmodel = 1\n", 'pricing.model: unknown key; did you mean \\"models\\"?'),
        ("[limits\n", "not valid TOML"),
        (None, "no such file"),
    ],
)
async def test_what_is_wrong_is_one_line_and_the_agent_goes_on(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_agent()
            await agent.wait_for_log(" connected ")
            if text is None:
                (tmp_path / "agent.toml").unlink()
            else:
                write_config(tmp_path, coordinator.url, text)
            agent.signal(signal.SIGHUP)
            assert reason in await agent.wait_for_log(KEPT)

            write_config(tmp_path, coordinator.url, f"{ECHO}[limits]\nmax_concurrent = 2\n")
            agent.signal(signal.SIGHUP)
            await agent.wait_for_log(RELOADED)
            job = new_job("echo")
            await link.give(job)
            assert isinstance(await link.end(job.job_id), JobResult)
            agent.signal(signal.SIGTERM)
            ended = await agent.wait()

    assert ended.code == 0
    assert "Traceback" not in ended.err


async def test_flags_stay_above_the_file_and_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", "--max-concurrent", "5", home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            text = settings(coordinator.url).replace("identity.key", "other.key")
            text = text.replace("[coordinator]\n", '[coordinator]\ntoken_file = "missing"\n')
            text = f"{text}[limits]\nmax_concurrent = 3\n"
            (tmp_path / "agent.toml").write_text(text, "utf-8")
            agent.signal(signal.SIGHUP)
            assert "token_file missing: No such file" in await agent.wait_for_log(
                " configuration warning note="
            )
            line = await agent.wait_for_log(RELOADED)

    assert "applied=[]" in line
    assert 'next_connection=["coordinator.token_file"]' in line
    assert 'needs_restart=["identity.key_path"]' in line


async def test_a_rotated_key_is_used_and_neither_is_ever_shown(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEYS[0], "utf-8")
    async with ScriptedCoordinator() as coordinator, GuardedServer().running() as server:
        backend = f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\n'
        write_config(tmp_path, coordinator.url, f'{backend}api_key_file = "key"\n')
        async with start_command("run", "--log-level", "debug", home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            agent.signal(signal.SIGHUP)
            await agent.wait_for_log("configuration unchanged")
            key.write_text(f"{KEYS[1]}\n", "utf-8")
            agent.signal(signal.SIGHUP)
            assert 'applied=["backends"]' in await agent.wait_for_log(RELOADED)
            await agent.wait_for_log("backend is up")
            agent.signal(signal.SIGTERM)
            ended = await agent.wait()

    assert set(server.shown) == {f"Bearer {one}" for one in KEYS}
    assert server.shown[-1] == f"Bearer {KEYS[1]}"
    assert [one for one in KEYS if one in ended.err + ended.out] == []


async def test_many_in_a_row_do_no_harm(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            for _ in range(20):
                agent.signal(signal.SIGHUP)
            await agent.wait_for_log("configuration unchanged")
            agent.signal(signal.SIGTERM)
            ended = await agent.wait()

    assert ended.code == 0


async def test_while_it_drains_nothing_changes(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_agent()
            link.acknowledges = False
            await agent.wait_for_log(" connected ")
            job = endless_job()
            await link.give(job)
            await link.next(JobStarted)
            agent.signal(signal.SIGTERM)
            await link.next(Draining)

            write_config(tmp_path, coordinator.url, "")
            agent.signal(signal.SIGHUP)
            assert "the agent is stopping" in await agent.wait_for_log(KEPT)
            link.acknowledges = True
            await link.flush()
            assert isinstance(await link.end(job.job_id), JobResult)
            ended = await agent.wait()

    assert ended.code == 0


# --- before it serves -----------------------------------------------------------------------------


def hold(fifo: Path) -> int:
    """Wait until somebody reads the file; what reads it goes on when it is closed."""
    return os.open(fifo, os.O_WRONLY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_stop_before_it_serves_is_the_end(
    number: signal.Signals, tmp_path: Path
) -> None:
    fifo = tmp_path / "agent.toml"
    os.mkfifo(fifo)
    async with start_command("run", "--config", fifo, home=tmp_path) as agent:
        held = await asyncio.to_thread(hold, fifo)
        try:
            agent.signal(number)
            ended = await agent.wait()
        finally:
            os.close(held)

    assert ended == (0, "", "")


async def test_a_signal_to_reload_before_it_serves_is_obeyed_when_it_does(tmp_path: Path) -> None:
    fifo = tmp_path / "settings"
    os.mkfifo(fifo)
    async with ScriptedCoordinator() as coordinator:
        text = settings(coordinator.url).encode()
        async with start_command("run", "--config", fifo, home=tmp_path) as agent:
            held = await asyncio.to_thread(hold, fifo)
            agent.signal(signal.SIGHUP)
            os.write(held, text)
            os.close(held)
            await agent.wait_for_log(" starting ")
            held = await asyncio.to_thread(hold, fifo)
            os.write(held, text)
            os.close(held)
            await agent.wait_for_log("configuration unchanged")
            agent.signal(signal.SIGTERM)
            ended = await agent.wait()

    assert ended.code == 0
