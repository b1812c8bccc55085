"""The examples of docs/coordinator.md with TLS in front of the coordinator, run for real."""

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.kit.certificates import CertificateAuthority
from tests.kit.cli_process import start_command
from tests.kit.wrong_servers import closed_port

TEXT = (Path(__file__).parents[2] / "docs" / "coordinator.md").read_text("utf-8")
PATH = "/usr/sbin:/sbin"  # Debian has servers there, which is not on the PATH of every user
KEYS = {"COORDINATOR_API_KEYS": "key", "COORDINATOR_ENROLLMENT_CODES": "code"}
REQUEST = {
    "model": "echo",
    "stream": True,
    "messages": [{"role": "user", "content": "hello through TLS"}],
}

NGINX = """
daemon off; error_log stderr; pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
{server}
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}\n}}\n"


def block(language: str) -> str:
    """Return the only code block of the document in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def nginx(folder: Path, port: int, upstream: int) -> list[str]:
    server = (
        block("nginx")
        .replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        .replace("/etc/nginx/ai.example.crt", f"{folder}/localhost.pem")
        .replace("/etc/nginx/ai.example.key", f"{folder}/localhost.key")
        .replace("ai.example", "localhost")
        .replace("127.0.0.1:8700", f"127.0.0.1:{upstream}")
    )
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, server=server), "utf-8")
    return ["-e", "stderr", "-p", str(folder), "-c", str(config)]


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    tls = f"\n\ttls {folder}/localhost.pem {folder}/localhost.key\n"
    site = (
        block("caddy")
        .replace("ai.example {\n", f"https://localhost:{port} {{{tls}")
        .replace("127.0.0.1:8700", f"127.0.0.1:{upstream}")
    )
    config = folder / "Caddyfile"
    config.write_text(CADDY.format(folder=folder) + site, "utf-8")
    return ["run", "--adapter", "caddyfile", "--config", str(config)]


@asynccontextmanager
async def running(program: str, arguments: list[str], port: int) -> AsyncIterator[None]:
    """Run a proxy; the body starts when it accepts connections."""
    path = shutil.which(program) or shutil.which(program, path=PATH)
    if path is None:
        pytest.skip(f"{program} is not installed")
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    stopped = asyncio.create_task(process.communicate())
    try:
        while not stopped.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.wait({stopped}, timeout=0.05)
                continue
            writer.close()
            break
        else:
            raise AssertionError((await stopped)[1].decode())
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await stopped


@pytest.mark.parametrize("program", ["nginx", "caddy"])
async def test_agent_and_client_connect_through_the_documented_proxy(
    program: str, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path)
    authority.issue("localhost")
    port, upstream = closed_port(), closed_port()
    make = {"nginx": nginx, "caddy": caddy}[program]
    (tmp_path / "agent.toml").write_text(
        f'[coordinator]\nurl = "wss://localhost:{port}/provider/connect"\n'
        f'enrollment_code = "code"\nca_file = "{authority.file}"\n'
        '[observability]\nprometheus_addr = ""\n[[backends]]\nkind = "echo"\n',
        "utf-8",
    )
    arguments = ("--authority", f"localhost:{port}", "--trusted-proxy", "127.0.0.1")
    listen = ("coordinator", "--port", str(upstream))
    async with (
        running(program, make(tmp_path, port, upstream), port),
        start_command(*listen, *arguments, home=tmp_path, env=KEYS) as coordinator,
        start_command("run", home=tmp_path) as agent,
    ):
        await coordinator.wait_for_log("agents may dial")
        await agent.wait_for_log("connected coordinator=")
        await check_client(f"https://localhost:{port}", authority)


async def check_client(url: str, authority: CertificateAuthority) -> None:
    """Send a streamed request, and some for what is not public."""
    context = ssl.create_default_context(cafile=authority.file)
    headers = {"Authorization": "Bearer key"}
    async with aiohttp.ClientSession(url, headers=headers) as client:
        async with client.post("/v1/chat/completions", json=REQUEST, ssl=context) as response:
            body = await response.text()
            assert response.status == 200, body
            assert body.rstrip().endswith("data: [DONE]")
        for path in ("/metrics", "/status"):
            async with client.get(path, ssl=context) as response:
                assert response.status == 404
