"""`provider-agent demo`: send requests through a local chain and compare the bytes."""

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
"""Includes the time in which a server loads a large model on the first request."""

EXIT_TERMINATED: Final = 143
"""SIGTERM during the start: 128 + 15, as a shell reports it."""


class DemoRequest(Struct):
    """The result of one request through the chain.

    Attributes:
        model: the model that answered.
        wire_format: the format of the request.
        first_byte_ms: from sending the request to the first byte of its response; None without a
            response body.
        relayed: bytes received.
        identical: whether they equal the bytes that the backend sent.
        usage: tokens, as the response reports them.
        problem: why the request failed; "" for a success.
    """

    model: ModelOffer
    wire_format: WireFormat
    first_byte_ms: float | None
    relayed: int
    identical: bool
    usage: Usage
    problem: str = ""


@click.command(short_help="Run coordinator, agent and a server on this machine.")
@click.option("--serve", is_flag=True, help="Keep running, and print curl commands to try.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The coordinator's HTTP port. [default: a free one]",
)
def demo(serve: bool, port: int) -> None:
    """Run coordinator, agent and an inference server on this machine, and send requests over HTTP.

    Uses the inference servers that already run here. Without one, it starts llama.cpp with a tiny
    model (requires `provider-agent[demo]`), or else uses the built-in echo backend.
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
        requests = [
            await _send_request(chain, model, wire_format, out)
            for wire_format in WireFormat
            if (model := _model_for(chain, wire_format)) is not None
        ]
        _summary(requests, out)
        if serve:
            await _serve(chain, out)
            return 0
    return 0 if requests and all(not r.problem and r.identical for r in requests) else 1


def _on_signal(number: int, react: Callable[[], object]) -> None:
    with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
        asyncio.get_running_loop().add_signal_handler(number, react)


def _cancel_this_task() -> Callable[[], object]:
    """Return a signal handler that cancels the current task."""
    task = asyncio.current_task()
    return lambda: task is not None and task.cancel()


def _model_for(chain: Chain, wire_format: WireFormat) -> ModelOffer | None:
    main = MAIN_OPERATION[wire_format]
    return next((model for model in chain.models if main in model.operations), None)


async def _send_request(
    chain: Chain, model: ModelOffer, wire_format: WireFormat, out: Console
) -> DemoRequest:
    """Send one streamed request to the coordinator and print its text as it arrives."""
    operation = MAIN_OPERATION[wire_format]
    body = chat_request(operation, model.model_id, PROMPT, max_tokens=MAX_TOKENS)
    url = chain.coordinator.http_url + operation.path
    out.print(wire_format, style="bold", end="")
    out.print(f"  POST {operation.path}  {visible(model.model_id)}", soft_wrap=True)
    text = AnswerText(wire_format)
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
    return DemoRequest(
        model, wire_format, first_byte_ms, len(received), identical, verdict.usage, problem
    )


def _same_job(operation: Operation, model: ModelOffer, body: bytes) -> Job:
    return Job(uuid.uuid4().bytes, model.model_id, operation.wire_format, body, 60_000, operation)


def _summary(requests: list[DemoRequest], out: Console) -> None:
    # Without borders and with narrow padding, the model column keeps 16 of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", overflow="fold", min_width=12)
    for title in ("backend", "format", "first byte", "bytes", "identical", "tokens"):
        table.add_column(title, no_wrap=True)
    for request in requests:
        wait = request.first_byte_ms
        table.add_row(
            visible(request.model.model_id),
            request.model.backend_kind,
            request.wire_format,
            "-" if wait is None else f"{wait:.0f} ms",
            str(request.relayed),
            Text("yes", style="green") if request.identical else Text("no", style="bold red"),
            f"{_count(request.usage.input_tokens)}/{_count(request.usage.output_tokens)}",
        )
    out.print(table)
    out.print("identical: whether the bytes received equal the bytes that the backend sent")
    out.print("tokens: input / output")
    for request in requests:
        if request.problem:
            problem = f"{request.wire_format} failed: {visible(request.problem)}"
            out.print(problem, style="bold red", soft_wrap=True)


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


async def _serve(chain: Chain, out: Console) -> None:
    """Print commands to try and wait for SIGTERM or Ctrl-C."""
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        _on_signal(number, stop_requested.set)
    out.print("\nTry it (Ctrl-C stops everything):\n")
    for wire_format in WireFormat:
        model = _model_for(chain, wire_format)
        if model is None:
            continue
        operation = MAIN_OPERATION[wire_format]
        body = chat_request(operation, model.model_id, PROMPT, max_tokens=MAX_TOKENS).decode()
        url = chain.coordinator.http_url + operation.path
        # Printed without wrapping, so that the line can be copied from a narrow terminal.
        click.echo(f"curl -N {url} -H 'Content-Type: application/json' -d '{body}'\n")
    click.echo(f"curl {chain.coordinator.http_url}/v1/models\n")
    await stop_requested.wait()
    out.print("\nStopping ...", style="dim")
