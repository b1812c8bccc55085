"""Installed third-party adapters: that of docs/servers/adapters.md, and a defective one."""

import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from provider_agent.adapters.registry import ENTRY_POINT_GROUP
from tests.kit.cli_process import start_command

DOCUMENT = (Path(__file__).parents[2] / "docs" / "servers" / "adapters.md").read_text()
RESPONSE_BODY = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hello from acme"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)

STUBBORN_ADAPTER = """
import asyncio

from provider_agent.adapters.servers.echo import EchoBackend


class StubbornBackend(EchoBackend):
    kind = "acme"

    async def health(self):
        self.task = asyncio.create_task(self.run_forever())
        return await super().health()

    async def run_forever(self):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
"""


def install(folder: Path, code: str, entry_points: str) -> None:
    """Install a distribution with one module into `folder`."""
    (folder / "acme_adapter.py").write_text(code)
    information = folder / "acme_adapter-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-adapter\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that contains the example as an installed distribution."""
    section = DOCUMENT.partition("## Adding a kind")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (entry_points,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    group, name, target = re.findall(r'entry-points\."(.+)"\]\n(\w+) = "(.+)"', entry_points)[0]
    install(tmp_path, code, f"[{group}]\n{name} = {target}\n")
    return tmp_path


@pytest.fixture
async def acme_url() -> AsyncIterator[str]:
    """The address of a server of the kind `acme`."""

    async def names(_request: web.Request) -> web.Response:
        return web.json_response({"names": ["acme-1"]})

    async def chat(_request: web.Request) -> web.Response:
        return web.Response(body=RESPONSE_BODY, content_type="text/event-stream")

    app = web.Application()
    app.router.add_get("/names", names)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_documented_example_executes_a_job(installed: Path, acme_url: str) -> None:
    config = installed / "agent.toml"
    config.write_text(f'[[backends]]\nkind = "acme"\nurl = "{acme_url}"\n')
    process = await create_subprocess_exec(
        sys.executable,
        *("-m", "provider_agent.agent.cli.main", "ask", "acme-1", "hello", "--config", str(config)),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )

    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert out.decode() == "hello from acme\n"
    assert "tokens 1 in, 3 out" in err.decode()


async def test_agent_exits_although_a_task_of_an_adapter_ignores_its_cancellation(
    tmp_path: Path,
) -> None:
    # In an earlier version, the process logged `stopped`, but did not exit: the task never ended.
    install(
        tmp_path, STUBBORN_ADAPTER, f"[{ENTRY_POINT_GROUP}]\nacme = acme_adapter:StubbornBackend"
    )
    (tmp_path / "agent.toml").write_text(
        '[coordinator]\nurl = "ws://127.0.0.1:1/"\n[identity]\nkey_path = "identity.key"\n'
        '[observability]\nprometheus_addr = "off"\n[[backends]]\nkind = "acme"\n'
    )
    async with start_command("run", home=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as agent:
        await agent.wait_for_log("backend is up")
        agent.signal(signal.SIGTERM)
        await agent.wait_for_log('tasks still running tasks=["Task-')
        await agent.wait_for_log("stopped exit_code=0")
        assert (await agent.wait()).code == 0
