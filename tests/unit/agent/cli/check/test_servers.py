import asyncio
import json

import pytest
from click.testing import CliRunner

from provider_agent.agent.backends.local_servers import FoundServer
from provider_agent.agent.cli.check.findings import Outcome
from provider_agent.agent.cli.check.servers import duplicate_servers, other_products
from provider_agent.agent.config import BackendConfig
from tests.kit.fakes.llamacpp import FakeLlamaCpp
from tests.kit.fakes.ollama import FakeOllama
from tests.kit.fakes.server import FakeResponse, RecordedRequest
from tests.kit.fakes.vllm import FakeVllm
from tests.unit.agent.cli.calls import COORDINATOR, invoke


def backend(kind: str, url: str) -> BackendConfig:
    return BackendConfig(kind=kind, url=url)


async def test_only_servers_of_another_product_are_reported(unused_tcp_port: int) -> None:
    async with FakeLlamaCpp(api_key="k") as llamacpp, FakeVllm() as vllm, FakeOllama() as ollama:
        others = await other_products(
            [
                backend("vllm", llamacpp.url),
                backend("ollama", vllm.url),
                backend("ollama", ollama.url),
                backend("openai_compatible", vllm.url),
                backend("vllm", f"http://127.0.0.1:{unused_tcp_port}"),
                BackendConfig(kind="echo"),
            ]
        )

    assert others == {
        ("vllm", llamacpp.url): FoundServer("llamacpp", llamacpp.url),
        ("ollama", vllm.url): FoundServer("vllm", vllm.url),
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("vllm", "http://127.0.0.1:8000"), ("vllm", "http://localhost:8000")),
        (("vllm", "http://localhost:8000"), ("vllm", "http://[::1]:8000")),
        (("vllm", "http://127.0.0.1:8000"), ("openai_compatible", "http://127.0.0.1:8000")),
        (("ollama", "http://GPU.lan:80"), ("ollama", "http://gpu.lan")),
    ],
)
def test_server_that_is_configured_twice_is_a_warning(
    first: tuple[str, str], second: tuple[str, str]
) -> None:
    # The agent would send it twice as many jobs as it can run.
    (finding,) = duplicate_servers([backend(*first), backend(*second)])

    assert finding.outcome is Outcome.WARNING
    assert finding.target == ":".join(second)
    assert finding.details.startswith(f"the same server as {':'.join(first)}")
    assert finding.what_to_do == "remove one of the two [[backends]] tables"


def test_different_servers_and_remote_services_are_no_duplicates() -> None:
    remote = "https://api.example"
    configs = [
        backend("vllm", "http://127.0.0.1:8000"),
        backend("vllm", "http://127.0.0.1:8001"),
        backend("vllm", "http://10.0.0.1:8000"),
        backend("vllm", "http://10.0.0.1:8000/second"),
        backend("openai_passthrough", remote),
        backend("openai_passthrough", remote),  # two accounts
        BackendConfig(kind="echo"),
    ]
    assert duplicate_servers(configs) == []


async def test_check_names_a_failing_server_of_another_kind(runner: CliRunner) -> None:
    async with FakeLlamaCpp() as server:
        config = f'{COORDINATOR}[[backends]]\nkind = "vllm"\nurl = "{server.url}"\n'
        result = await asyncio.to_thread(invoke, runner, "check", "--json", config=config)

    (found,) = [f for f in json.loads(result.output)["findings"] if f["component"] == "backend"]
    assert found["outcome"] == "failed"
    assert found["details"] == "this is llama.cpp, not vLLM"
    assert found["what_to_do"] == 'set `kind = "llamacpp"` under [[backends]]'


async def test_check_warns_of_a_working_server_of_another_kind(runner: CliRunner) -> None:
    class LlamaCppWithVllmRoutes(FakeVllm):
        """A vLLM to its adapter, except that it names itself in another way."""

        def respond(self, request: RecordedRequest) -> FakeResponse:
            response = super().respond(request)
            response.headers["Server"] = "llama.cpp"
            return response

    async with LlamaCppWithVllmRoutes() as server:
        config = f'{COORDINATOR}[[backends]]\nkind = "vllm"\nurl = "{server.url}"\n'
        command = ("check", "--json", "--no-completions")
        result = await asyncio.to_thread(invoke, runner, *command, config=config)

    findings = json.loads(result.output)["findings"]
    backends = [(f["outcome"], f["details"]) for f in findings if f["component"] == "backend"]
    assert [outcome for outcome, _ in backends] == ["ok", "warning"]
    assert backends[1][1] == "this is llama.cpp, not vLLM"
