"""Many short streams on a real llama.cpp, to show that none fails and none is sent twice.

The server closes connections right after some streams, although it announces keep-alive. The number
of tokens that it generated shows how many requests it received: each generates the same number.

Run it with `python -m tests.soak.short_streams --streams 20000`.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from provider_agent.adapters.base import BackendError, BackendSettings, Job
from provider_agent.adapters.servers.llamacpp import LlamaCppBackend
from provider_agent.adapters.servers.prometheus_text import read_metrics
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.tiny_model import write_tiny_model
from tests.kit.sink import CollectingSink

TOKENS: Final = 4
"""Tokens of each response; the tiny model never ends one earlier."""

_PREDICTED: Final = "llamacpp:tokens_predicted_total"


async def run_streams(backend: LlamaCppBackend, streams: int, clients: int) -> Counter[str]:
    """Run the streams, and return the number of each outcome.

    The clients run at once; each starts its next stream when its last one has ended.
    """
    outcomes: Counter[str] = Counter()
    request = msgspec.json.encode(
        {
            "model": "tiny",
            "stream": True,
            "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": "Say something."}],
        }
    )

    async def run_client(numbers: Iterator[int]) -> None:
        for number in numbers:
            job = Job(number.to_bytes(16, "big"), "tiny", "openai", request, 60_000)
            try:
                await backend.execute(job, CollectingSink())
                outcomes["completed"] += 1
            except BackendError as error:
                outcomes[f"{type(error).__name__}: {error}"] += 1

    numbers = iter(range(streams))
    await asyncio.gather(*(run_client(numbers) for _ in range(clients)))
    return outcomes


async def _measure(streams: int, clients: int) -> int:
    """Run the streams on a server of their own; return 1 if any failed or was sent twice."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.gguf"
        write_tiny_model(model)
        async with LlamaCppProcess(model, parallel=clients) as server:
            backend = LlamaCppBackend(BackendSettings(kind="llamacpp", url=server.url))
            try:
                await backend.list_models()
                outcomes = await run_streams(backend, streams, clients)
                metrics = read_metrics((await backend.get("/metrics")).body, {_PREDICTED})
            finally:
                await backend.close()
    received = sum(metrics[_PREDICTED]) / TOKENS
    for outcome, count in outcomes.most_common():
        click.echo(f"{count:8} {outcome}")
    click.echo(f"{received:8.0f} requests received by the server")
    return 0 if outcomes["completed"] == streams == received else 1


@click.command()
@click.option("--streams", default=2000, show_default=True)
@click.option("--clients", default=6, show_default=True, help="Concurrent streams.")
def main(streams: int, clients: int) -> None:
    """Run short streams on a real llama.cpp; fail if any fails or is sent twice."""
    sys.exit(asyncio.run(_measure(streams, clients)))


if __name__ == "__main__":
    main()
