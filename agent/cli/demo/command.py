"""`provider-agent demo`: real requests through coordinator, agent and server on this machine."""

import asyncio
import contextlib
import shlex
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

from provider_agent.adapters.base import Usage
from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.agent.cli.demo.chain import Chain, running_chain
from provider_agent.agent.cli.one_job import chat_request
from provider_agent.agent.cli.response_text import ResponseText
from provider_agent.agent.cli.terminal import console, visible
from provider_agent.agent.telemetry.logs import configure_logging
from provider_agent.coordinator.exceptions import CoordinatorError
from provider_agent.protocol.formats import MAIN_OPERATION, Operation, WireFormat
from provider_agent.protocol.frames import ModelOffer
from provider_agent.protocol.job import Job

PROMPT: Final = "Tell me about the sea in a few words."
MAX_TOKENS: Final = 48
"""A few lines of text."""

REQUEST_TIMEOUT_S: Final = 180.0
"""The first request may load a large model."""

EXIT_TERMINATED: Final = 143
"""The exit code if SIGTERM interrupts the demo, as in a shell. With `--serve`, a SIGTERM after the
requests is the normal end, with exit code 0."""


class DemoResult(Struct):
    """The result of one request.

    Attributes:
        model: the requested model.
        wire_format: the request's format.
        first_byte_ms: time from the request to the first byte of the response; None: no byte.
        relayed: number of bytes received from the coordinator.
        identical: whether the received bytes equal the bytes that the backend sent.
        usage: the token counts of the response.
        problem: why the request failed; "" if it succeeded.
    """

    model: ModelOffer
    wire_format: WireFormat
    first_byte_ms: float | None
    relayed: int
    identical: bool
    usage: Usage
    problem: str = ""


@click.command(short_help="Try coordinator, agent and server on this machine.")
@click.option("--serve", is_flag=True, help="Keep running, and print curl commands to try.")
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="The coordinator's HTTP port. [default: a free one]",
)
def demo(serve: bool, port: int) -> None:
    """Send real HTTP requests through coordinator, agent and inference server on this machine.

    Uses the inference servers on the well-known ports of this machine that have a chat model. If
    there are none, it starts a real llama.cpp server with a tiny model (needs
    `provider-agent[demo]`), or else the built-in echo.
    """
    configure_logging("warning", "text", sys.stderr, ())
    try:
        sys.exit(asyncio.run(_demo(serve, port, console())))
    except asyncio.CancelledError:
        sys.exit(EXIT_TERMINATED)
    except TimeoutError as error:
        raise click.ClickException(
            "no model was offered, or no response received, in time; is the server on this machine "
            "still loading?"
        ) from error
    except (CoordinatorError, aiohttp.ClientError) as error:
        raise click.ClickException(str(error)) from error


async def _demo(serve: bool, port: int, out: Console) -> int:
    _on_signal(signal.SIGTERM, _cancel_this_task())
    out.print("Starting ...", style="dim")
    async with running_chain(port) as chain:
        out.print(f"backend      {chain.backend_text}", soft_wrap=True)
        out.print(f"coordinator  {chain.coordinator.http_url}")
        out.print("agent        connected\n")
        results = [
            await _send_request(chain, model, wire_format, out)
            for wire_format in WireFormat
            if (model := _model_for(chain, wire_format)) is not None
        ]
        _print_results(results, out)
        if serve:
            await _serve(chain, out)
            return 0
    succeeded = all(not result.problem and result.identical for result in results)
    return 0 if results and succeeded else 1


def _on_signal(number: int, handler: Callable[[], object]) -> None:
    with contextlib.suppress(NotImplementedError):  # not supported on Windows
        asyncio.get_running_loop().add_signal_handler(number, handler)


def _cancel_this_task() -> Callable[[], object]:
    """Return a callback that cancels the current task; the task then stops all that it started."""
    task = asyncio.current_task()
    return lambda: task is not None and task.cancel()


def _model_for(chain: Chain, wire_format: WireFormat) -> ModelOffer | None:
    main = MAIN_OPERATION[wire_format]
    return next((model for model in chain.models if main in model.operations), None)


async def _send_request(
    chain: Chain, model: ModelOffer, wire_format: WireFormat, out: Console
) -> DemoResult:
    """Send one streamed request to the coordinator, and print its text while it streams."""
    operation = MAIN_OPERATION[wire_format]
    body = chat_request(operation, model.model_id, PROMPT, max_tokens=MAX_TOKENS)
    url = chain.coordinator.http_url + operation.path
    out.print(wire_format, style="bold", end="")
    out.print(f"  POST {operation.path}  {visible(model.model_id)}", soft_wrap=True)
    text = ResponseText(wire_format)
    validator = StreamValidator(operation)
    received = bytearray()
    first_byte_ms: float | None = None
    began = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        async for data in response.content.iter_any():
            if first_byte_ms is None:
                first_byte_ms = (time.perf_counter() - began) * 1000
            received += data
            validator.receive_data(data)
            out.out(visible(text.receive_data(data), keep="\n\t"), end="", highlight=False)
    out.print("\n")
    validation = validator.result()
    problem = validation.failure.message if validation.failure else ""
    if response.status != 200:
        problem = f"status {response.status}: {received[:300].decode(errors='replace')}"
    job = _job_of(operation, model, body)
    sent = await chain.sent_by_backend(job, model.backend_kind)
    identical = bytes(received) == sent
    return DemoResult(
        model, wire_format, first_byte_ms, len(received), identical, validation.usage, problem
    )


def _job_of(operation: Operation, model: ModelOffer, body: bytes) -> Job:
    return Job(uuid.uuid4().bytes, model.model_id, operation.wire_format, body, 60_000, operation)


def _print_results(results: list[DemoResult], out: Console) -> None:
    # Without borders and with narrow gaps, eighty columns have space for the model's name.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", overflow="fold", min_width=12)
    for title in ("backend", "format", "first byte", "bytes", "identical", "tokens"):
        table.add_column(title, no_wrap=True)
    for result in results:
        wait = result.first_byte_ms
        table.add_row(
            visible(result.model.model_id),
            result.model.backend_kind,
            result.wire_format,
            "-" if wait is None else f"{wait:.0f} ms",
            str(result.relayed),
            Text("yes", style="green") if result.identical else Text("no", style="bold red"),
            f"{_count(result.usage.input_tokens)}/{_count(result.usage.output_tokens)}",
        )
    out.print(table)
    out.print("identical: the received bytes equal the bytes that the backend sent")
    out.print("tokens: prompt / response")
    for result in results:
        if result.problem:
            problem = f"{result.wire_format} failed: {visible(result.problem)}"
            out.print(problem, style="bold red", soft_wrap=True)


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


async def _serve(chain: Chain, out: Console) -> None:
    """Keep running until SIGTERM or Ctrl-C."""
    stop_requested = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        _on_signal(number, stop_requested.set)
    out.print("\nTry it (Ctrl-C stops everything):\n")
    for wire_format in WireFormat:
        model = _model_for(chain, wire_format)
        if model is None:
            continue
        operation = MAIN_OPERATION[wire_format]
        # Printed without line breaks, so that the command can be copied from any terminal.
        click.echo(_curl(chain.coordinator.http_url, operation, model.model_id) + "\n")
    click.echo(f"curl {chain.coordinator.http_url}/v1/models\n")
    await stop_requested.wait()
    out.print("\nStopping ...", style="dim")


def _curl(url: str, operation: Operation, model_id: str) -> str:
    """Return a shell command that sends the demo's request."""
    body = chat_request(operation, model_id, PROMPT, max_tokens=MAX_TOKENS).decode()
    header = "Content-Type: application/json"
    return shlex.join(["curl", "-N", url + operation.path, "-H", header, "-d", body])
