"""`provider-agent ask`: one job through the adapters, without a coordinator."""

import os
import sys

import click

from adapters.base import BackendError
from agent.backends import Backends, make_backends
from agent.cli.one_job import explain, run_one_job
from agent.cli.settings import run_async, with_config
from agent.config import LoadedConfig
from agent.discovery import Discovery
from agent.routing import Refusal, choose_routes
from protocol.formats import MAIN_OPERATION, WireFormat


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option(
    "--format",
    "wire_format",
    type=click.Choice([str(known) for known in WireFormat]),
    default=str(WireFormat.OPENAI),
    show_default=True,
    help="The wire format to ask in.",
)
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for the whole answer.")
@with_config
def ask(
    loaded: LoadedConfig,
    model: str,
    prompt: str,
    wire_format: str,
    max_tokens: int,
    timeout: float,
) -> None:
    """Ask MODEL the PROMPT on your own backends, exactly as a job would, and show its figures.

    The text goes to standard output as it streams, everything else to standard error.
    """
    sys.exit(run_async(_ask(loaded, model, prompt, WireFormat(wire_format), max_tokens, timeout)))


async def _ask(
    loaded: LoadedConfig,
    model: str,
    prompt: str,
    wire_format: WireFormat,
    max_tokens: int,
    timeout_s: float,
) -> int:
    backends = make_backends(loaded.config.backends, os.environ)
    try:
        return await _ask_backends(backends, model, prompt, wire_format, max_tokens, timeout_s)
    finally:
        for backend in backends.usable:
            await backend.close()


async def _ask_backends(
    backends: Backends,
    model: str,
    prompt: str,
    wire_format: WireFormat,
    max_tokens: int,
    timeout_s: float,
) -> int:
    discovery = Discovery(backends.usable, backends.markups, lambda: None)
    await discovery.check_all()
    routes = choose_routes(wire_format, "", discovery.routes(model, lambda _: 0))
    if isinstance(routes, Refusal):
        click.echo(f"{routes.code}: {routes.message}", err=True)
        _say_what_there_is(discovery, backends)
        return 1
    backend = discovery.backend(routes[0].backend_id)
    operation = MAIN_OPERATION[wire_format]
    try:
        result = await run_one_job(
            backend,
            operation,
            model,
            prompt,
            max_tokens=max_tokens,
            timeout_s=timeout_s,
            show=lambda text: click.echo(text, nl=False),
        )
    except BackendError as error:
        click.echo(f"\n{backend.id}: {explain(error)}", err=True)
        return 1
    click.echo()
    seconds = result.duration_ms / 1000
    click.echo(
        f"\n{backend.id}, {wire_format}: first byte after {result.first_byte_ms} ms, "
        f"{_count(result.input_tokens)} tokens in, {_count(result.output_tokens)} out, "
        f"{result.total_bytes} bytes, {seconds:.2f} s",
        err=True,
    )
    return 0


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def _say_what_there_is(discovery: Discovery, backends: Backends) -> None:
    models = {model.model_id: sorted(model.formats) for _, model, _ in discovery.serving()}
    for model_id, formats in list(models.items())[:50]:
        click.echo(f"  {model_id}  ({', '.join(formats)})", err=True)
    for state in discovery.states:
        if not state.health.reachable:
            click.echo(f"  {state.backend.id}: {state.health.last_error}", err=True)
    for skipped in backends.skipped:
        click.echo(f"  {skipped.backend_id}: {skipped.reason}", err=True)
