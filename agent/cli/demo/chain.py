"""Everything that the demo starts: a server (or what is there already), coordinator and agent."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from provider_agent.adapters.base import BackendModel, BackendSettings, FlowControl, Job
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
from provider_agent.agent.cli.demo.tap import Tap
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

MODELS_WITHIN_S: Final = 30.0
"""From the start of the agent to the first model at the coordinator."""

TINY_MODEL: Final = "tiny"
_OFFLINE: Final = "127.0.0.1"


class Chain(Struct):
    """What runs.

    Attributes:
        coordinator: where requests go in.
        backend_text: what answers them, for people.
        taps: by backend kind; empty for `echo`.
        models: what is offered.
    """

    coordinator: Coordinator
    backend_text: str
    taps: dict[str, Tap]
    models: Sequence[ModelOffer] = ()

    async def sent_by_backend(self, job: Job, backend_kind: str) -> bytes:
        """The bytes that the backend sent for the last request, which was `job`."""
        if backend_kind in self.taps:
            return self.taps[backend_kind].last_body
        # Echo answers equal requests with equal bytes, so it can simply be asked directly.
        sink = _Bytes()
        await EchoBackend(BackendSettings(kind="echo")).execute(job, sink)
        return bytes(sink.received)


class _Bytes:
    def __init__(self) -> None:
        self.received = bytearray()

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        pass

    def send_chunk(self, data: bytes) -> None:
        self.received += data


@asynccontextmanager
async def started_chain(port: int) -> AsyncIterator[Chain]:
    """Start everything, and stop it again.

    Args:
        port: of the coordinator; 0 takes a free one.

    Raises:
        TimeoutError: no model was offered in time.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="provider-agent-")))
        servers, text = await _servers(stack, folder)
        taps = {s.kind: await stack.enter_async_context(Tap(s.url)) for s in servers}
        coordinator = await stack.enter_async_context(
            Coordinator(CoordinatorSettings(host=_OFFLINE, port=port))
        )
        service = _service(coordinator, taps, folder)
        running = asyncio.create_task(service.run(), name="demo agent")
        stack.push_async_callback(_stop, service, running)
        chain = Chain(coordinator, text, taps)
        async with asyncio.timeout(MODELS_WITHIN_S):
            # The coordinator tells nobody when an agent's first offer arrives; it is soon there.
            while not any(agent.models for agent in coordinator.agents()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        chain.models = service.offers()
        yield chain


async def _servers(stack: AsyncExitStack, folder: Path) -> tuple[list[FoundServer], str]:
    """Servers that run here and can chat; else one of our own; else none (echo)."""
    usable, reasons = await usable_servers()
    if usable:
        text = ", ".join(f"{server.kind} at {server.url}" for server in usable)
        return usable, f"{text} (found running on this machine)"
    servers, text = await _own_server(stack, folder)
    return servers, "\n             ".join([text, *reasons])


async def usable_servers(
    ports: Sequence[int] = WELL_KNOWN_PORTS,
) -> tuple[list[FoundServer], list[str]]:
    """The servers on these ports that can chat, and one line for each that cannot."""
    usable, reasons = [], []
    for server in await find_local_servers(ports):
        state = await _look_at(server)
        if any(map(_chats, state.models)):
            usable.append(server)
        else:
            why = state.health.last_error or "it has no model to chat with"
            reasons.append(f"({server.kind} at {server.url} is not used: {why})")
    return usable, reasons


async def _look_at(server: FoundServer) -> BackendState:
    """A server that runs here may need a key, or have no model: then it is no use to the demo."""
    backend = create_backend(BackendSettings(kind=server.kind, url=server.url))
    try:
        return await check_backend(backend)
    finally:
        await backend.close()


def _chats(model: BackendModel) -> bool:
    return not model.operations.isdisjoint(MAIN_OPERATION.values())


async def _own_server(stack: AsyncExitStack, folder: Path) -> tuple[list[FoundServer], str]:
    """A real llama.cpp with a tiny model; else none (echo)."""
    try:
        model = folder / "tiny.gguf"
        await asyncio.to_thread(write_tiny_model, model)
        process = await stack.enter_async_context(LlamaCppProcess(model, alias=TINY_MODEL))
    except DemoExtraMissing:
        text = "the built-in echo; for a real llama.cpp server: pip install 'provider-agent[demo]'"
        return [], text
    except (ImportError, LlamaCppStartError) as error:
        # A wheel for another machine, say. Its last line is the one that names the cause.
        return [], f"the built-in echo; llama.cpp did not start: {str(error).splitlines()[-1]}"
    text = "a real llama.cpp server with a tiny model of random weights (its words mean nothing)"
    return [FoundServer("llamacpp", process.url)], text


def _service(coordinator: Coordinator, taps: dict[str, Tap], folder: Path) -> Service:
    configs = tuple(BackendConfig(kind=kind, url=tap.url) for kind, tap in taps.items())
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
