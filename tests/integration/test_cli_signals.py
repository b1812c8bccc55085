"""Signals to a real agent process: reload with SIGHUP, and signals during startup."""

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
from tests.integration.test_cli import ECHO, long_job
from tests.kit.cli_agent import status_server
from tests.kit.cli_process import start_command
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome

RELOADED = "configuration reloaded"
NOT_RELOADED = "configuration not reloaded"
KEYS = ("sk-FIRST-SERVER-KEY", "sk-SECOND-SERVER-KEY")


def config_text(url: str, sections: str = ECHO) -> str:
    return (
        f'[coordinator]\nurl = "{url}"\n[identity]\nkey_path = "identity.key"\n'
        f'[observability]\nprometheus_addr = "off"\n{sections}'
    )


def write_config(home: Path, url: str, sections: str = ECHO) -> None:
    (home / "agent.toml").write_text(config_text(url, sections), "utf-8")


class RecordingServer:
    """An OpenAI-compatible server that records the `Authorization` header of each request."""

    def __init__(self) -> None:
        self.url = ""
        self.authorizations: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RecordingServer"]:
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
        self.authorizations.append(request.headers.get("Authorization", ""))
        return web.json_response({"data": [{"id": "m"}]})


# --- SIGHUP ---------------------------------------------------------------------------------------


async def test_reload_applies_to_new_jobs_while_running_ones_continue(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            link.acknowledges = False
            await agent.wait_for_log(" connected ")
            job = long_job()
            await link.send_jobs(job)
            await link.next(JobStarted)

            sections = f"{ECHO}max_concurrent = 2\n[limits]\nmax_concurrent = 3\n"
            write_config(tmp_path, coordinator.url, sections)
            agent.signal(signal.SIGHUP)
            line = await agent.wait_for_log(RELOADED)
            assert 'applied=["backends","limits.max_concurrent"]' in line
            while (capabilities := await link.next(Capabilities)).limits.max_concurrent != 3:
                pass
            assert [model.max_concurrent for model in capabilities.models] == [2]

            later = new_job("echo")
            link.acknowledges = True
            await link.send_jobs(later)
            assert (await link.next(JobStarted, later.job_id)).backend_id == "echo#2"
            assert isinstance(await link.end(later.job_id), JobResult)
            assert isinstance(await link.end(job.job_id), JobResult)
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[limits]\nmax_concurrent = 0\n", "limits.max_concurrent: expected a whole number >= 1"),
        ("[pricing]\nmodel = 1\n", 'pricing.model: unknown key; did you mean \\"models\\"?'),
        ("[limits\n", "not valid TOML"),
        (None, "no such file"),
    ],
)
async def test_failed_reload_is_logged_and_the_agent_continues(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            await agent.wait_for_log(" connected ")
            if text is None:
                (tmp_path / "agent.toml").unlink()
            else:
                write_config(tmp_path, coordinator.url, text)
            agent.signal(signal.SIGHUP)
            assert reason in await agent.wait_for_log(NOT_RELOADED)

            write_config(tmp_path, coordinator.url, f"{ECHO}[limits]\nmax_concurrent = 2\n")
            agent.signal(signal.SIGHUP)
            await agent.wait_for_log(RELOADED)
            job = new_job("echo")
            await link.send_jobs(job)
            assert isinstance(await link.end(job.job_id), JobResult)
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0
    assert "Traceback" not in result.err


async def test_reload_keeps_command_line_options_and_logs_settings_that_need_a_restart(
    tmp_path: Path,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", "--max-concurrent", "5", home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            text = config_text(coordinator.url).replace("identity.key", "other.key")
            text = text.replace("[coordinator]\n", '[coordinator]\ntoken_file = "missing"\n')
            text = f"{text}[limits]\nmax_concurrent = 3\n"
            (tmp_path / "agent.toml").write_text(text, "utf-8")
            agent.signal(signal.SIGHUP)
            assert (
                "token_file missing: it cannot be read: No such file"
                in await agent.wait_for_log(" configuration warning note=")
            )
            line = await agent.wait_for_log(RELOADED)

    assert "applied=[]" in line
    assert 'next_connection=["coordinator.token_file"]' in line
    assert 'needs_restart=["identity.key_path"]' in line


async def test_rotated_key_is_used_and_no_key_is_logged(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEYS[0], "utf-8")
    async with ScriptedCoordinator() as coordinator, RecordingServer().running() as server:
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
            result = await agent.wait()

    assert set(server.authorizations) == {f"Bearer {key}" for key in KEYS}
    assert server.authorizations[-1] == f"Bearer {KEYS[1]}"
    assert [key for key in KEYS if key in result.err + result.out] == []


async def test_agent_continues_after_repeated_reload_signals(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            await agent.wait_for_log(" connected ")
            for _ in range(20):
                agent.signal(signal.SIGHUP)
            await agent.wait_for_log("configuration unchanged")
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0


async def test_reload_is_refused_while_draining(tmp_path: Path) -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        write_config(tmp_path, coordinator.url)
        async with start_command("run", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            link.acknowledges = False
            await agent.wait_for_log(" connected ")
            job = long_job()
            await link.send_jobs(job)
            await link.next(JobStarted)
            agent.signal(signal.SIGTERM)
            await link.next(Draining)

            write_config(tmp_path, coordinator.url, "")
            agent.signal(signal.SIGHUP)
            assert "the agent is stopping" in await agent.wait_for_log(NOT_RELOADED)
            link.acknowledges = True
            await link.send_pending_frames()
            assert isinstance(await link.end(job.job_id), JobResult)
            result = await agent.wait()

    assert result.code == 0


# --- during startup -----------------------------------------------------------------------------


def open_for_writing(fifo: Path) -> int:
    """Block until the agent opens the FIFO. The agent reads until the descriptor is closed."""
    return os.open(fifo, os.O_WRONLY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_agent_exits_with_0_on_a_stop_signal_during_startup(
    number: signal.Signals, tmp_path: Path
) -> None:
    fifo = tmp_path / "agent.toml"
    os.mkfifo(fifo)
    async with start_command("run", "--config", fifo, home=tmp_path) as agent:
        descriptor = await asyncio.to_thread(open_for_writing, fifo)
        agent.signal(number)
        # End the agent's read, which may outlast the signal: a signal that arrives just before the
        # read does not interrupt it, and Python calls the handler only when the read returns.
        os.close(descriptor)
        result = await agent.wait()

    assert result == (0, "", "")


async def test_reload_signal_during_startup_takes_effect_after_startup(tmp_path: Path) -> None:
    fifo = tmp_path / "settings"
    os.mkfifo(fifo)
    async with ScriptedCoordinator() as coordinator:
        text = config_text(coordinator.url).encode()
        async with start_command("run", "--config", fifo, home=tmp_path) as agent:
            descriptor = await asyncio.to_thread(open_for_writing, fifo)
            agent.signal(signal.SIGHUP)
            os.write(descriptor, text)
            os.close(descriptor)
            await agent.wait_for_log(" starting ")
            descriptor = await asyncio.to_thread(open_for_writing, fifo)
            os.write(descriptor, text)
            os.close(descriptor)
            await agent.wait_for_log("configuration unchanged")
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0


@pytest.mark.parametrize(("arguments", "text"), [((), "ready"), (("--json",), '"version":"1.2.3"')])
async def test_status_watch_prints_states_until_ctrl_c(
    arguments: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    async with status_server() as address:
        env = {"PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": address}
        async with start_command(
            "status", "--watch", *arguments, home=tmp_path, env=env
        ) as command:
            await command.wait_for_output(text)
            command.signal(signal.SIGINT)
            assert (await command.wait()).code == 130
