"""`provider-agent demo`: the whole chain on this machine, with real requests."""

import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Callable
from typing import Final

import aiohttp
import click
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from provider_agent.adapters.responses.events import Usage
from provider_agent.adapters.responses.validator import StreamValidator
from provider_agent.agent.cli.answer_text import AnswerText
from provider_agent.agent.cli.demo.chain import Chain, started_chain
from provider_agent.agent.cli.one_job import chat_request
from provider_agent.agent.cli.terminal import console, visible
from provider_agent.agent.telemetry.logs import configure_logging
from provider_agent.coordinator.exceptions import CoordinatorError
from provider_agent.protocol.formats import MAIN_OPERATION, Operation, WireFormat
from provider_agent.protocol.frames import Job, ModelOffer

PROMPT: Final = "Tell me about the sea in a few words."
MAX_TOKENS: Final = 48
ANSWER_WITHIN_S: Final = 180.0
"""A big model that is loaded on the first request takes a while."""

EXIT_TERMINATED: Final = 143
"""SIGTERM before everything was up; as a shell would say it."""


class Exchange(Struct):
    """One request through the chain.

    Attributes:
        model: which model answered.
        wire_format: in which format.
        first_byte_ms: from sending the request to the first byte of its response; None: none came.
        relayed: bytes that arrived.
        identical: whether they are the bytes that the backend sent.
        usage: tokens, as the response reports them.
        problem: why it is not a success; "" when it is.
    """

    model: ModelOffer
    wire_format: WireFormat
    first_byte_ms: float | None
    relayed: int
    identical: bool
    usage: Usage
    problem: str = ""


@click.command(short_help="See the whole chain work on this machine.")
@click.option("--serve", is_flag=True, help="Stay up and show the curl lines to try.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The coordinator's HTTP port. [default: a free one]",
)
def demo(serve: bool, port: int) -> None:
    """See the whole chain work: coordinator, agent and a model, with real requests over HTTP.

    Uses the inference servers that run on this machine; when there are none, a real llama.cpp
    server with a tiny model (needs `provider-agent[demo]`); otherwise the built-in echo.
    """
    configure_logging("warning", "text", sys.stderr, ())
    try:
        sys.exit(asyncio.run(_demo(serve, port, console())))
    except asyncio.CancelledError:
        sys.exit(EXIT_TERMINATED)
    except TimeoutError as error:
        raise click.ClickException(
            "no model was offered or no answer came in time; is the server on this machine "
            "still loading?"
        ) from error
    except (CoordinatorError, aiohttp.ClientError) as error:
        raise click.ClickException(str(error)) from error


async def _demo(serve: bool, port: int, out: Console) -> int:
    _on_signal(signal.SIGTERM, _cancel_this_task())
    out.print("Starting ...", style="dim")
    async with started_chain(port) as chain:
        out.print(f"backend      {chain.backend_text}", soft_wrap=True)
        out.print(f"coordinator  {chain.coordinator.http_url}")
        out.print("agent        connected\n")
        exchanges = [
            await _exchange(chain, model, wire_format, out)
            for wire_format in WireFormat
            if (model := _model_for(chain, wire_format)) is not None
        ]
        _summary(exchanges, out)
        if serve:
            await _serve(chain, out)
            return 0
    return 0 if exchanges and all(not e.problem and e.identical for e in exchanges) else 1


def _on_signal(number: int, react: Callable[[], object]) -> None:
    with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
        asyncio.get_running_loop().add_signal_handler(number, react)


def _cancel_this_task() -> Callable[[], object]:
    """What ends this task tidily, with everything that it started."""
    task = asyncio.current_task()
    return lambda: task is not None and task.cancel()


def _model_for(chain: Chain, wire_format: WireFormat) -> ModelOffer | None:
    main = MAIN_OPERATION[wire_format]
    return next((model for model in chain.models if main in model.operations), None)


async def _exchange(
    chain: Chain, model: ModelOffer, wire_format: WireFormat, out: Console
) -> Exchange:
    """Send one streamed request to the coordinator and show its text as it comes."""
    operation = MAIN_OPERATION[wire_format]
    body = chat_request(operation, model.model_id, PROMPT, max_tokens=MAX_TOKENS)
    url = chain.coordinator.http_url + operation.path
    out.print(wire_format, style="bold", end="")
    out.print(f"  POST {operation.path}  {visible(model.model_id)}", soft_wrap=True)
    text = AnswerText(wire_format, streamed=True)
    validator = StreamValidator(operation)
    received = bytearray()
    first_byte_ms: float | None = None
    began = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, data=body) as response,
    ):
        async for data in response.content.iter_any():
            if first_byte_ms is None:
                first_byte_ms = (time.perf_counter() - began) * 1000
            received += data
            validator.receive_data(data)
            out.out(visible(text.feed(data), keep="\n\t"), end="", highlight=False)
    out.print("\n")
    verdict = validator.result()
    problem = verdict.failure.message if verdict.failure else ""
    if response.status != 200:
        problem = f"status {response.status}: {received[:300].decode(errors='replace')}"
    sent = await chain.sent_by_backend(_same_job(operation, model, body), model.backend_kind)
    identical = bytes(received) == sent
    return Exchange(
        model, wire_format, first_byte_ms, len(received), identical, verdict.usage, problem
    )


def _same_job(operation: Operation, model: ModelOffer, body: bytes) -> Job:
    return Job(uuid.uuid4().bytes, model.model_id, operation.wire_format, body, 60_000, operation)


def _summary(exchanges: list[Exchange], out: Console) -> None:
    # Without frames and with narrow gaps, a model's name keeps a fifth of eighty columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", overflow="fold", min_width=12)
    for title in ("backend", "format", "first byte", "bytes", "identical", "tokens"):
        table.add_column(title, no_wrap=True)
    for exchange in exchanges:
        wait = exchange.first_byte_ms
        table.add_row(
            visible(exchange.model.model_id),
            exchange.model.backend_kind,
            exchange.wire_format,
            "-" if wait is None else f"{wait:.0f} ms",
            str(exchange.relayed),
            Text("yes", style="green") if exchange.identical else Text("no", style="bold red"),
            f"{_count(exchange.usage.input_tokens)}/{_count(exchange.usage.output_tokens)}",
        )
    out.print(table)
    out.print("identical: whether what arrived is, byte for byte, what the backend sent")
    out.print("tokens: of the prompt / of the answer")
    for exchange in exchanges:
        if exchange.problem:
            problem = f"{exchange.wire_format} failed: {visible(exchange.problem)}"
            out.print(problem, style="bold red", soft_wrap=True)


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


async def _serve(chain: Chain, out: Console) -> None:
    """Stay up until SIGTERM or Ctrl-C."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        _on_signal(number, asked_to_stop.set)
    out.print("\nTry it (Ctrl-C stops everything):\n")
    for wire_format in WireFormat:
        model = _model_for(chain, wire_format)
        if model is None:
            continue
        operation = MAIN_OPERATION[wire_format]
        body = chat_request(operation, model.model_id, PROMPT, max_tokens=MAX_TOKENS).decode()
        url = chain.coordinator.http_url + operation.path
        # Printed raw, so that the line can be copied whatever the width of the terminal.
        click.echo(f"curl -N {url} -H 'Content-Type: application/json' -d '{body}'\n")
    click.echo(f"curl {chain.coordinator.http_url}/v1/models\n")
    await asked_to_stop.wait()
    out.print("\nStopping ...", style="dim")
