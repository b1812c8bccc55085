"""The example in `docs/adapters.md` works as an installed third-party adapter."""

import os
import re
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

DOCUMENT = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
RESPONSE_BODY = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hello from acme"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that contains the example as an installed distribution."""
    section = DOCUMENT.partition("## Adding a kind")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (entry_points,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "acme_adapter.py").write_text(code)
    information = tmp_path / "acme_adapter-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-adapter\nVersion: 1.0\n"
    )
    group, name, target = re.findall(r'entry-points\."(.+)"\]\n(\w+) = "(.+)"', entry_points)[0]
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
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
