"""The load balancer and NATS of deploy/compose.cluster.yaml, with their own files, run for real.

The command lines of the coordinators are those of the Compose file. Only addresses are replaced.
"""

import asyncio
import contextlib
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import yaml

from provider_agent.protocol.limits import CONNECT_PATH
from tests.kit.cli_process import CliProcess, start_command
from tests.kit.coordinator_harness import CHAT, JSON_HEADERS, NO_TIMEOUT
from tests.kit.nats_server import NatsServer, nats_server
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob
from tests.kit.wrong_servers import closed_port

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORD = "1234567890"  # NATS would read it as a number without the quotes of the Compose file
PATH = "/usr/sbin:/sbin"  # Debian has servers there, which is not on the PATH of every user
BODY = b'{"model":"tiny"}'
NAMES = ["coordinator-1", "coordinator-2", "coordinator-3"]
READY = [f"ready/{name}" for name in NAMES]
RUNNING = [f"running/{name}" for name in NAMES]
SERVICES = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text("utf-8"))["services"]


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Replace `${NAME:-default}` and `${NAME:?message}` as Compose does."""
    pattern = r"\$\{(\w+)(?::([-?])([^}]*))?\}"

    def value(match: re.Match[str]) -> str:
        name, operator, text = match.groups()
        if name in variables:
            return variables[name]
        assert operator == "-", f"{name} is required"
        return str(text)

    return re.sub(pattern, value, text)


class Deployment:
    """Runs the services on this machine.

    Attributes:
        url: the load balancer's address for clients.
        balancer: its process; the log says which coordinator is up.
        coordinators: the running coordinators by name.
    """

    def __init__(self, folder: Path, nats: NatsServer, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._nats = nats
        self._stack = stack
        self._ports = {name: closed_port() for name in NAMES}
        self.port = closed_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.coordinators: dict[str, CliProcess] = {}
        self.balancer: CliProcess
        self._states: dict[str, str] = {}

    async def start_coordinator(self, name: str) -> None:
        service = SERVICES[name]
        values = {
            "AUTHORITY": f"127.0.0.1:{self.port}",
            "CLUSTER_SUBNET": "127.0.0.1/32",
            "COORDINATOR_API_KEYS": "key",
            "COORDINATOR_ENROLLMENT_CODES": "code",
            "NATS_PASSWORD": PASSWORD,
        }
        arguments = [interpolate(each, values) for each in service["command"]]
        assert "--host=0.0.0.0" in arguments
        arguments.remove("--host=0.0.0.0")
        environment = {
            key: interpolate(each, values) for key, each in service["environment"].items()
        }
        url = environment["COORDINATOR_CLUSTER"]
        environment["COORDINATOR_CLUSTER"] = url.replace(
            "nats:4222", f"127.0.0.1:{self._nats.port}"
        )
        port = ("--port", str(self._ports[name]))
        command = start_command(*arguments, *port, home=self._folder, env=environment)
        self.coordinators[name] = process = await self._stack.enter_async_context(command)
        await process.wait_for_log("INFO cluster connected")

    async def start_balancer(self) -> None:
        path = shutil.which("haproxy") or shutil.which("haproxy", path=PATH)
        if path is None:
            pytest.skip("haproxy is not installed")
        text = (DEPLOY / "cluster" / "haproxy.cfg").read_text("utf-8")
        for name, port in self._ports.items():
            text = text.replace(f"{name}:8700", f"127.0.0.1:{port}")
        text = text.replace("bind :8700", f"bind 127.0.0.1:{self.port}")
        text = text.replace("bind 127.0.0.1:8404", f"bind 127.0.0.1:{closed_port()}")
        config = self._folder / "haproxy.cfg"
        config.write_text(text, "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(path, "-db", "-f", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.balancer = CliProcess(process)
        self._stack.push_async_callback(self.balancer.kill)

    async def wait_for_state(self, state: str, *servers: str) -> None:
        """Wait until the load balancer has logged that all the servers are `UP`, or `DOWN`."""
        while any(self._states.get(server) != state for server in servers):
            line = await self.balancer.wait_for_log("Server ")
            if found := re.search(r"Server (\S+) is (UP|DOWN)", line):
                self._states[found[1]] = found[2]

    async def agent(self) -> ScriptedAgent:
        """Connect an agent through the load balancer."""
        url = f"ws://127.0.0.1:{self.port}{CONNECT_PATH}"
        return await self._stack.enter_async_context(ScriptedAgent(url, enrollment_code="code"))

    async def client(self) -> aiohttp.ClientSession:
        headers = {**JSON_HEADERS, "Authorization": "Bearer key"}
        session = aiohttp.ClientSession(self.url, headers=headers, timeout=NO_TIMEOUT)
        return await self._stack.enter_async_context(session)

    async def has_answered(self, name: str) -> bool:
        """Whether this coordinator has answered a request of a client."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
            session.get(f"http://127.0.0.1:{self._ports[name]}/metrics") as response,
        ):
            return "coordinator_requests_total{" in await response.text()

    async def holder(self) -> str:
        """Return the coordinator to which the only agent is connected."""
        for name, port in self._ports.items():
            async with (
                aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
                session.get(f"http://127.0.0.1:{port}/metrics") as response,
            ):
                if "\ncoordinator_agents 1.0\n" in await response.text():
                    return name
        raise AssertionError("no coordinator has the agent")


@contextlib.asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    """Run NATS, the load balancer and three coordinators, without an agent."""
    quoted = interpolate(
        SERVICES["nats"]["environment"]["NATS_PASSWORD"], {"NATS_PASSWORD": PASSWORD}
    )
    config = (DEPLOY / "cluster" / "nats.conf").read_text("utf-8")
    # `addr` and `port` of the command line count.
    config = config.replace("$NATS_PASSWORD", quoted).replace('http: "127.0.0.1:8222"', "")
    (folder / "nats.conf").write_text(config, "utf-8")
    async with (
        nats_server("--config", str(folder / "nats.conf")) as nats,
        AsyncExitStack() as stack,
    ):
        running = Deployment(folder, nats, stack)
        await running.start_balancer()
        await running.wait_for_state("DOWN", *READY, *RUNNING)
        for name in NAMES:
            await running.start_coordinator(name)
        await running.wait_for_state("UP", *RUNNING)
        yield running


async def ask(client: aiohttp.ClientSession, agent: ScriptedAgent) -> None:
    """Send a request and answer it."""
    asking = asyncio.create_task(read(client))
    job = await agent.next_job()
    await job.answer(b"the answer")
    assert await asking == (200, b"the answer")


async def read(client: aiohttp.ClientSession) -> tuple[int, bytes]:
    async with client.post(CHAT, data=BODY) as response:
        return response.status, await response.read()


async def test_clients_are_answered_whichever_coordinator_has_the_agent(tmp_path: Path) -> None:
    async with deployment(tmp_path) as running:
        agent, client = await running.agent(), await running.client()
        await running.wait_for_state("UP", *READY)
        for name in NAMES:
            while not await running.has_answered(name):
                await ask(client, agent)

        for path in ("/metrics", "/status"):
            async with client.get(path) as response:
                assert response.status == 404


async def test_without_an_agent_the_coordinator_says_why(tmp_path: Path) -> None:
    async with deployment(tmp_path) as running:
        client = await running.client()
        async with client.get("/v1/models") as response:
            assert (response.status, (await response.json())["data"]) == (200, [])


async def test_responses_are_streamed_and_a_disconnected_client_cancels(tmp_path: Path) -> None:
    async with deployment(tmp_path) as running:
        agent, client = await running.agent(), await running.client()
        await running.wait_for_state("UP", *READY)
        asking = asyncio.create_task(client.post(CHAT, data=BODY))
        job = await agent.next_job()
        await job.start()
        await job.send(b"first")
        response = await asking
        assert await response.content.readexactly(5) == b"first"
        response.close()
        await job.cancelled.wait()

        # Before the response has started.
        asking = asyncio.create_task(client.post(CHAT, data=BODY))
        job = await agent.next_job()
        asking.cancel()
        await job.cancelled.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_next_request_works_when_a_coordinator_ends(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with deployment(tmp_path) as running:
        agent, client = await running.agent(), await running.client()
        await running.wait_for_state("UP", *READY)
        name = await running.holder()
        running.coordinators[name].signal(number)
        await running.coordinators[name].wait()
        await agent.closed.wait()

        other = await running.agent()
        for _ in NAMES:
            await ask(client, other)


async def test_a_stopping_coordinator_receives_nothing_new_and_finishes_its_requests(
    tmp_path: Path,
) -> None:
    async with deployment(tmp_path) as running:
        agent, client = await running.agent(), await running.client()
        await running.wait_for_state("UP", *READY)
        asking = [asyncio.create_task(read(client)) for _ in NAMES]
        jobs = [await agent.next_job() for _ in NAMES]
        holder = await running.holder()
        stopping = next(name for name in NAMES if name != holder)
        running.coordinators[stopping].signal(signal.SIGTERM)
        await running.wait_for_state("DOWN", f"ready/{stopping}", f"running/{stopping}")

        for _ in NAMES:
            await ask(client, agent)
        other = await running.agent()
        assert other.rejected is None
        await answer_all(jobs)
        assert await asyncio.gather(*asking) == [(200, b"the answer")] * 3
        ended = await running.coordinators[stopping].wait()
        assert ended.code == 0
        assert "interrupted_requests=0" in ended.err


async def answer_all(jobs: list[ScriptedJob]) -> None:
    for job in jobs:
        await job.answer(b"the answer")
