"""The load generator of the benchmark, through the agent and through a plain HTTP relay."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bench import relay
from bench.load_generator import (
    Figures,
    LoadFailed,
    LoadGenerator,
    compile_load,
    compiler,
    supports_tls,
)
from bench.loads import LOADS, QUICK, REST, Load
from bench.relays import AGENT, DOES_NOT_REST, NGINX, OBVIOUS, Relay

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")

TINY = Load("tiny", streams=3, events=40, jobs=2, rate=400, prompt=300_000, backends=2)
TINY_TLS = Load("tiny, TLS", streams=3, events=40, jobs=2, rate=400, prompt=300_000, tls=True)
THIS_PYTHON = Relay("agent, this Python", python=sys.executable)
UNLIMITED_TLS = Load("unlimited, TLS", streams=3, events=3_000, rate=0, tls=True)

WARNINGS = ["-Wall", "-Wextra", "-Werror"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_load(tmp_path_factory.mktemp("load"), WARNINGS)


@pytest.mark.parametrize(
    ("compared", "load"),
    [
        (AGENT, TINY),
        (AGENT, Load("unlimited", streams=3, events=3_000, rate=0)),
        (AGENT, Load("ping-pong", streams=3, events=50, rate=0, ping_pong=True)),
        (OBVIOUS, TINY),
        (DOES_NOT_REST, Load("busy", streams=3, events=40, rate=400, busy=True)),
        (THIS_PYTHON, Load("versions", streams=3, events=40, rate=400, versions=True)),
    ],
    ids=lambda one: one.name,
)
def test_every_byte_of_a_tiny_load_arrives(program: Path, load: Load, compared: Relay) -> None:
    figures = relay.measure(load, compared, program).figures
    assert (figures.errors, figures.error) == (0, "")
    assert figures.jobs == load.streams * load.jobs
    assert figures.events == figures.jobs * load.events
    assert figures.usages == (0 if compared is OBVIOUS else figures.jobs)


@pytest.mark.parametrize("compared", [AGENT, OBVIOUS, NGINX], ids=lambda one: one.name)
@pytest.mark.parametrize("load", [TINY_TLS, UNLIMITED_TLS], ids=lambda one: one.name)
def test_every_byte_arrives_through_tls(program: Path, load: Load, compared: Relay) -> None:
    if not supports_tls():
        pytest.skip("the C compiler finds no OpenSSL")
    if compared is NGINX and shutil.which("nginx") is None:
        pytest.skip("nginx is not on PATH")
    figures = relay.measure(load, compared, program).figures
    assert (figures.errors, figures.error) == (0, "")
    assert figures.events == load.streams * load.jobs * load.events


def test_without_openssl_it_runs_all_loads_but_those_with_tls(tmp_path: Path) -> None:
    program = compile_load(tmp_path, WARNINGS, tls=False)
    load = Load("without OpenSSL", streams=2, events=20, rate=0)
    figures = relay.measure(load, AGENT, program).figures
    assert (figures.jobs, figures.events, figures.error) == (2, 40, "")


RUST_AGENT = """
import asyncio, base64, json, sys, tomllib
import aiohttp

async def run_job(session, socket, server, job):
    async with session.post(f"{server}/v1/chat/completions", json=job["request"]) as response:
        async for data in response.content.iter_any():
            chunk = {"data": base64.b64encode(data).decode(), "job_id": job["job_id"]}
            await send(socket, "job_chunk", chunk)
    await send(socket, "job_done", {"job_id": job["job_id"], "tokens": {"output_tokens": 40}})

async def send(socket, kind, fields):
    text = json.dumps({**fields, "type": kind}, separators=(",", ":"), sort_keys=True)
    await socket.send_str(text)

async def main():
    config = tomllib.load(open("agent.toml", "rb"))
    server = config["backends"][0]["url"]
    limits = {"max_concurrent_total": config["limits"]["max_concurrent"]}
    capabilities = {"limits": limits, "models": [{"max_concurrent": 1, "model_id": "bench"}]}
    tasks = set()
    async with aiohttp.ClientSession() as session, session.ws_connect(sys.argv[1]) as socket:
        async for message in socket:
            match json.loads(message.data):
                case {"type": "auth_challenge", "nonce": nonce}:
                    assert len(base64.b64decode(nonce)) == 32
                    await send(socket, "auth_response", {"pubkey": "", "signature": ""})
                case {"type": "auth_ok"}:
                    await send(socket, "capabilities", capabilities)
                case {"type": "job"} as job:
                    job = run_job(session, socket, server, job)
                    tasks.add(asyncio.create_task(job))

asyncio.run(main())
"""
"""The dialect of the existing Rust agent, as recorded of version 0.3.3."""


def test_an_agent_of_the_other_dialect_can_be_measured(program: Path, tmp_path: Path) -> None:
    script = tmp_path / "rust_agent.py"
    script.write_text(RUST_AGENT)
    command = f"{sys.executable} {script} {{coordinator}}"
    load = Load("rust", streams=3, events=40, jobs=2, rate=400, prompt=100_000)
    figures = relay.measure(load, Relay("rust agent", command=command), program).figures
    assert (figures.jobs, figures.events, figures.error) == (6, 240, "")
    assert figures.usages == 6


def test_a_relay_that_exits_has_failed(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = Relay("broken", http=True, command=f"{sys.executable} -c 'print(1/0)'")
    with pytest.raises(LoadFailed):
        relay.measure(TINY, broken, program)
    assert "ZeroDivisionError" in capfd.readouterr().err


@asynccontextmanager
async def http_relay(alter: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[int]]]:
    """A relay of raw bytes; yields its port, and an empty list.

    The caller adds the port to dial to the list.
    """
    dialed: list[int] = []

    served: list[asyncio.Task[None]] = []

    async def copy(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        with suppress(ConnectionError):  # the load generator exits without closing connections
            while data := await reader.read(65536):
                writer.write(change(data))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def relay_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", dialed[0])
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(reader, upstream_writer, lambda data: data))
            group.create_task(copy(upstream_reader, writer, alter))

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(relay_connection(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], dialed
        await asyncio.gather(*served)


async def _run(program: Path, port: int, dialed: list[int]) -> Figures:
    options = Load("http", streams=2, events=20, rate=0).arguments()
    with LoadGenerator(program, [*options, f"--target={port}"]) as generator:
        dialed += generator.servers  # before the event loop accepts a connection
        await asyncio.to_thread(generator.wait_until_ready, lambda: True)
        return await asyncio.to_thread(generator.run)


async def test_responses_through_an_http_relay_are_complete(program: Path) -> None:
    async with http_relay(lambda data: data) as (port, dialed):
        figures = await _run(program, port, dialed)
    assert (figures.jobs, figures.events, figures.error) == (2, 40, "")


async def test_a_wrong_byte_fails_its_job(program: Path) -> None:
    def alter(data: bytes) -> bytes:
        return data.replace(b"00000001 0000013 xx", b"00000001 0000013 xy")

    async with http_relay(alter) as (port, dialed):
        figures = await _run(program, port, dialed)
    assert (figures.jobs, figures.errors) == (2, 1)
    assert figures.error == "a byte of the response is wrong"


def test_the_load_generator_accepts_every_load(program: Path) -> None:
    for load in (*LOADS, *QUICK, *REST):
        with LoadGenerator(program, load.arguments()) as generator:
            assert len(generator.servers) == load.backends
