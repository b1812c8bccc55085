"""The commands of docs/operations/update.md for updates, run literally while streams run.

systemd, Docker and Kubernetes are replaced by scripts that stop and start real processes of the
command in the same order: SIGTERM, wait for the exit, start.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from provider_agent.agent.service import EXIT_OK, EXIT_REFUSED
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.cli_process import COMMAND, kept_variables, start_command
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import FakeResponse, RecordedRequest, stream_response
from tests.readme.console import Command, Terminal, console_blocks

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations" / "update.md").read_text("utf-8")
UPDATE = DOCUMENT.partition("\n## Update\n")[2].partition("\n## ")[0]

STOP_AND_START = """\
kill -TERM "$(cat agent.pid)"
while kill -0 "$(cat agent.pid)" 2> /dev/null; do sleep 0.05; done
nohup provider-agent run > agent-next.log 2>&1 & echo $! > agent.pid
"""
STOP, _, START = STOP_AND_START.partition("nohup")
SCRIPTS = {
    "bin/sudo": 'exec "$@"',
    "bin/systemctl": f'case "$*" in\n"stop provider-agent") {STOP};;\n'
    f'"start provider-agent") nohup{START};;\n*) exit 1;;\nesac',
    "opt/provider-agent/bin/pip": '[ "$*" = "install --upgrade provider-agent" ]',
    "bin/docker": 'case "$*" in\n"compose -f deploy/compose.yaml build --pull") ;;\n'
    f'"compose -f deploy/compose.yaml up --detach") {STOP_AND_START};;\n*) exit 1;;\nesac',
    "bin/helm": f"{STOP_AND_START}",
    "bin/kubectl": "until grep -qw connected agent-next.log; do sleep 0.05; done",
    "bin/provider-agent": f'exec "{COMMAND}" "$@"',
    "provider-agent-next/bin/provider-agent": f'exec "{COMMAND}" "$@"',
}
PROCEDURES = {
    "Processes: without a pause": EXIT_REFUSED,
    "A service of systemd": EXIT_OK,
    "Compose": EXIT_OK,
    "Kubernetes": EXIT_OK,
}


class Pace(asyncio.Event):
    """The time between two chunks, so that streams run during the whole procedure."""

    async def wait(self) -> bool:  # type: ignore[override]
        await asyncio.sleep(0.02)
        return True


class PacedServer(FakeOpenAICompatible):
    """Streams a response that depends on the prompt."""

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if not request.is_job:
            return self.error_response(422, "a field is missing", request)
        return stream_response(frames_for(json.dumps(request.json["messages"])))


def frames_for(prompt: str) -> list[bytes]:
    choices: list[dict[str, object]] = [
        {"index": 0, "delta": {"content": f"{number} {prompt}"}, "finish_reason": None}
        for number in range(40)
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    frames = [b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n" for one in choices]
    return [*frames, b"data: [DONE]\n\n"]


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(CoordinatorSettings(port=0, drain_s=0)) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[PacedServer]:
    async with PacedServer() as server:
        server.wait_after_first_chunk = Pace()
        yield server


def prepare(folder: Path, coordinator: Coordinator, server: PacedServer) -> dict[str, str]:
    """Write configuration and scripts into `folder`; return the environment of a terminal."""
    (folder / "agent.toml").write_text(
        f'[coordinator]\nurl = "{coordinator.connect_url}"\n'
        '[identity]\nkey_path = "identity.key"\n[observability]\nprometheus_addr = "off"\n'
        f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\nformats = ["openai"]\n',
        "utf-8",
    )
    for name, text in SCRIPTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        path.chmod(0o755)
    search = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**kept_variables(), "HOME": str(folder), "TMPDIR": str(folder), "PATH": search}


def commands_of(procedure: str, folder: Path) -> list[Command]:
    """Return the commands of a section, with `/opt` in the test's folder."""
    section = UPDATE.partition(f"\n### {procedure}\n")[2].partition("\n### ")[0]
    (block,) = console_blocks(section)
    return [Command(one.text.replace("/opt/", f"{folder}/opt/"), one.output) for one in block]


class Clients:
    """Three clients that send one request after the other, until `finish`.

    Args:
        url: the coordinator.
        may_be_refused: whether a refused request is sent again, as the official clients do.
    """

    def __init__(self, url: str, *, may_be_refused: bool) -> None:
        self.completed = 0
        self._url = url
        self._may_be_refused = may_be_refused
        self._finishing = False
        self._completed = asyncio.Condition()

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self._run_one(session, number))

    async def completes(self, count: int) -> None:
        async with self._completed:
            wanted = self.completed + count
            await self._completed.wait_for(lambda: self.completed >= wanted)

    def finish(self) -> None:
        self._finishing = True

    async def _run_one(self, session: aiohttp.ClientSession, number: int) -> None:
        request = 0
        while not self._finishing:
            messages = [{"role": "user", "content": f"request {request} of client {number}"}]
            body = {"model": MODEL, "stream": True, "messages": messages}
            async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
                received = await response.read()
            if self._may_be_refused and response.status == 503:
                assert b"draining" in received
                await asyncio.sleep(0.1)  # less than `Retry-After`, so that the test is short
                continue
            assert response.status == 200, received
            assert received == b"".join(frames_for(json.dumps(messages)))
            request += 1
            async with self._completed:
                self.completed += 1
                self._completed.notify_all()


@pytest.mark.parametrize("procedure", PROCEDURES)
async def test_update_loses_no_job_and_no_byte(
    procedure: str, coordinator: Coordinator, server: PacedServer, tmp_path: Path
) -> None:
    environ = prepare(tmp_path, coordinator, server)
    commands = commands_of(procedure, tmp_path)
    clients = Clients(coordinator.http_url, may_be_refused=PROCEDURES[procedure] == EXIT_OK)
    terminal = Terminal(tmp_path, environ)
    async with start_command("run", home=tmp_path) as old, asyncio.TaskGroup() as group:
        try:
            (tmp_path / "agent.pid").write_text(str(old.pid))
            await old.wait_for_log(" connected ")
            running = group.create_task(clients.run())
            await clients.completes(1)
            ended = group.create_task(old.wait())
            for command in commands:
                await terminal.run(command)
            await clients.completes(3)
            clients.finish()
            assert (await ended).code == PROCEDURES[procedure]
            new_pid = int((tmp_path / "agent.pid").read_text())
            assert new_pid != old.pid
            os.kill(new_pid, 0)  # the new version runs
            await running
        finally:
            clients.finish()
            await terminal.close()


def test_every_procedure_is_tested() -> None:
    headings = [line[4:] for line in UPDATE.splitlines() if line.startswith("### ")]
    assert headings == list(PROCEDURES)
