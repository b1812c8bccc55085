"""Starts the parts of the demo: coordinator, agent and, if none is found, an inference server."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    FlowControl,
    Job,
    ResponseOutcome,
)
from provider_agent.adapters.registry import create_backend
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.backends.health_check import BackendState, check_backend
from provider_agent.agent.backends.local_servers import (
    WELL_KNOWN_PORTS,
    FoundServer,
    find_local_servers,
)
from provider_agent.agent.cli.demo.extra import DemoExtraMissing
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess, LlamaCppStartError
from provider_agent.agent.cli.demo.response_recorder import ResponseRecorder
from provider_agent.agent.cli.demo.tiny_model import write_tiny_model
from provider_agent.agent.config import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    IdentityConfig,
    LimitsConfig,
    ObservabilityConfig,
    OperatorConfig,
    PricingConfig,
)
from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.service import Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.formats import MAIN_OPERATION
from provider_agent.protocol.frames import ModelOffer

FIRST_MODEL_TIMEOUT_S: Final = 30.0
"""How long after its start the agent may take to offer its first model to the coordinator."""

TINY_MODEL: Final = "tiny"
_HOST: Final = "127.0.0.1"


class Chain(Struct):
    """The running parts of the demo.

    Attributes:
        coordinator: the coordinator, which receives the requests.
        backend_text: a human-readable description of the backends.
        recorders: the proxy in front of the last server of each backend kind; empty for `echo`.
        models: the agent's offers.
    """

    coordinator: Coordinator
    backend_text: str
    recorders: dict[str, ResponseRecorder]
    models: Sequence[ModelOffer] = ()

    async def sent_by_backend(self, job: Job, backend_kind: str) -> bytes:
        """Return the bytes that the backend sent for the last request, which was `job`."""
        if backend_kind in self.recorders:
            return self.recorders[backend_kind].last_body
        # `echo` has no recorder. It returns equal bytes for equal requests, so executing the job
        # once more yields the bytes that it sent.
        sink = _CollectingSink()
        await EchoBackend(BackendSettings(kind="echo")).execute(job, sink)
        return bytes(sink.received)


class _CollectingSink:
    """A `JobSink` that collects the bytes."""

    def __init__(self) -> None:
        self.received = bytearray()

    def started(
        self, status: int, content_type: str, source: FlowControl, headers: Mapping[str, str]
    ) -> None:
        pass

    def send_chunk(self, data: bytes) -> None:
        self.received += data

    def response_ended(self, outcome: ResponseOutcome) -> None:
        pass


@asynccontextmanager
async def running_chain(port: int) -> AsyncIterator[Chain]:
    """Start coordinator and agent, and an inference server if none is found; stop them on exit.

    Args:
        port: the coordinator's port; 0: a free one.

    Raises:
        TimeoutError: no model was offered in time.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="provider-agent-")))
        servers, text = await _servers(stack, folder)
        recorders = {
            server.kind: await stack.enter_async_context(ResponseRecorder(server.url))
            for server in servers
        }
        coordinator = await stack.enter_async_context(
            Coordinator(CoordinatorSettings(host=_HOST, port=port))
        )
        service = _service(coordinator, recorders, folder)
        running = asyncio.create_task(service.run(), name="demo agent")
        stack.push_async_callback(_stop, service, running)
        chain = Chain(coordinator, text, recorders)
        async with asyncio.timeout(FIRST_MODEL_TIMEOUT_S):
            # Polled, because the coordinator has no event for an agent's first offer.
            while not any(agent.models for agent in coordinator.agents()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        chain.models = service.offers()
        yield chain


async def _servers(stack: AsyncExitStack, folder: Path) -> tuple[list[FoundServer], str]:
    """Return the servers of the demo, and a text about them for the user.

    They are the running servers that support chat, else a new llama.cpp server. If that cannot
    start, the list is empty, and the demo uses `echo`.
    """
    usable, reasons = await usable_servers()
    if usable:
        text = ", ".join(f"{server.kind} at {server.url}" for server in usable)
        return usable, f"{text} (found running on this machine)"
    servers, text = await _start_llamacpp(stack, folder)
    return servers, "\n             ".join([text, *reasons])


async def usable_servers(
    ports: Sequence[int] = WELL_KNOWN_PORTS,
) -> tuple[list[FoundServer], list[str]]:
    """Return the servers on these ports that support chat, and why the others are not used."""
    usable, reasons = [], []
    for server in await find_local_servers(ports):
        state = await _check(server)
        if any(map(_supports_chat, state.models)):
            usable.append(server)
        else:
            why = state.health.last_error or "it has no chat model"
            reasons.append(f"({server.kind} at {server.url} is not used: {why})")
    return usable, reasons


async def _check(server: FoundServer) -> BackendState:
    """Check a running server, which may need a key or have no model."""
    backend = create_backend(BackendSettings(kind=server.kind, url=server.url))
    try:
        return await check_backend(backend)
    finally:
        await backend.close()


def _supports_chat(model: BackendModel) -> bool:
    return not model.operations.isdisjoint(MAIN_OPERATION.values())


async def _start_llamacpp(stack: AsyncExitStack, folder: Path) -> tuple[list[FoundServer], str]:
    """Start a real llama.cpp server with a tiny model; return no server if that fails."""
    try:
        model = folder / "tiny.gguf"
        await asyncio.to_thread(write_tiny_model, model)
        process = await stack.enter_async_context(LlamaCppProcess(model, alias=TINY_MODEL))
    except DemoExtraMissing:
        text = "the built-in echo; for a real llama.cpp server: pip install 'provider-agent[demo]'"
        return [], text
    except (ImportError, LlamaCppStartError) as error:
        # For example, the wheel is for another CPU. The message's last line names the cause.
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        return [], f"the built-in echo; llama.cpp did not start: {reason}"
    text = (
        f"a real llama.cpp server at {process.url}\n"
        "             with a tiny model of random weights (its text is meaningless)"
    )
    return [FoundServer("llamacpp", process.url)], text


def _service(
    coordinator: Coordinator, recorders: dict[str, ResponseRecorder], folder: Path
) -> Service:
    configs = tuple(BackendConfig(kind=kind, url=proxy.url) for kind, proxy in recorders.items())
    config = Config(
        operator=OperatorConfig(display_name="demo"),
        coordinator=CoordinatorConfig(url=coordinator.connect_url),
        identity=IdentityConfig(key_path=folder / "identity.key"),
        backends=configs or (BackendConfig(kind="echo"),),
        pricing=PricingConfig(),
        limits=LimitsConfig(drain_timeout_s=2.0),
        discovery=DiscoveryConfig(),
        observability=ObservabilityConfig(prometheus_addr=""),
    )
    identity = load_or_create(config.identity.key_path)
    return Service(config, identity, make_backends(config.backends, {}))


async def _stop(service: Service, running: asyncio.Task[int]) -> None:
    service.stop()
    await running
