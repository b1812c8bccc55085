"""What a command imports, and when: start-up time is mostly imports."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from provider_agent.protocol.frames import Capabilities, JobResult
from tests.kit.flood_server import MODEL, FloodServer, flood
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.wrong_servers import closed_port

RECORD: Final = """
import atexit, json, pathlib, sys, time

class Recorder:
    def find_spec(self, name, path=None, target=None):
        imports.append((time.monotonic(), name))

def write():
    imported = [entry for entry in imports if entry[1] in sys.modules]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(imported), "utf-8")

imports = []
sys.meta_path.insert(0, Recorder())
atexit.register(write)
from provider_agent.agent.cli.main import main
main(sys.argv[2:])
"""
"""Runs the command line, and writes the time and name of each import into a file when it exits."""

HELP_PACKAGES: Final = {"click", "provider_agent"}
RUN_PACKAGES: Final = HELP_PACKAGES | {
    "aiohappyeyeballs",
    "httptools",
    "msgspec",
    "nacl",
    "uvloop",
    "websockets",
}
IMPORTED_BY_THEM: Final = {"typing_extensions"}
"""Packages that those of `RUN_PACKAGES` import, with some versions of Python."""

UNUSED_MODULES: Final = {"ctypes", "multiprocessing", "sqlite3", "tracemalloc", "xml"}
"""Modules of the standard library that take memory, and that serving does not need."""

IMPORTED_BY_AIOHTTP: Final = {
    "aiosignal",
    "attr",
    "frozenlist",
    "idna",
    "multidict",
    "propcache",
    "yarl",
}
"""Packages that the status server's aiohttp imports. Some versions need only some of them."""


class Import(NamedTuple):
    """One import of a process: when (monotonic, in seconds), and of which module."""

    at: float
    name: str


async def start(home: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RECORD, "imports.json", *arguments),
        cwd=home,
        stdout=asyncio.subprocess.DEVNULL,
    )


async def imports_of(home: Path, process: asyncio.subprocess.Process) -> list[Import]:
    """Wait for the end of the process, and return its imports."""
    assert await process.wait() == 0
    return msgspec.json.decode((home / "imports.json").read_bytes(), type=list[Import])


def packages(imports: Iterable[Import]) -> set[str]:
    """The top-level packages outside of the standard library."""
    names = {entry.name.partition(".")[0] for entry in imports}
    return {name for name in names - sys.stdlib_module_names if not name.startswith("_")}


async def test_help_imports_only_click(tmp_path: Path) -> None:
    imports = await imports_of(tmp_path, await start(tmp_path, "--help"))
    assert packages(imports) == HELP_PACKAGES
    # Each takes at least as long to import as click.
    assert not {"asyncio", "importlib.metadata"} & {entry.name for entry in imports}


@asynccontextmanager
async def running_agent(
    home: Path, prometheus_addr: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, AgentConnection]]:
    """Start an agent, and yield it with its link when it offers the model of its one backend."""
    with FloodServer(flood(8192)) as server:
        async with ScriptedCoordinator() as coordinator:
            (home / "agent.toml").write_text(
                f'[coordinator]\nurl = "{coordinator.url}"\n'
                '[identity]\nkey_path = "identity.key"\n'
                f'[observability]\nprometheus_addr = "{prometheus_addr}"\n'
                f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\n',
                "utf-8",
            )
            process = await start(home, "run")
            peer = await coordinator.next_connection()
            while not (await peer.next(Capabilities)).models:
                pass
            yield process, peer


async def test_run_imports_what_it_needs_before_its_first_job(tmp_path: Path) -> None:
    # Nothing connects to the status server.
    async with running_agent(tmp_path, "127.0.0.1:0") as (process, peer):
        started_at = time.monotonic()
        job = new_job(MODEL)
        await peer.send_jobs(job)
        assert isinstance(await peer.end(job.job_id), JobResult)
        process.send_signal(signal.SIGTERM)
        imports = await imports_of(tmp_path, process)
    assert RUN_PACKAGES <= packages(imports) <= RUN_PACKAGES | IMPORTED_BY_THEM
    assert {entry.name for entry in imports}.isdisjoint(UNUSED_MODULES)
    assert [entry.name for entry in imports if entry.at > started_at] == []


async def test_first_request_for_the_status_imports_two_more_packages(tmp_path: Path) -> None:
    port = closed_port()
    async with running_agent(tmp_path, f"127.0.0.1:{port}") as (process, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()
        process.send_signal(signal.SIGTERM)
        imports = await imports_of(tmp_path, process)
    needed = RUN_PACKAGES | {"aiohttp", "prometheus_client"}
    assert needed <= packages(imports) <= needed | IMPORTED_BY_THEM | IMPORTED_BY_AIOHTTP
