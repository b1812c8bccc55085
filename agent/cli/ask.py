"""`provider-agent ask`: one job on the configured backends, without a coordinator."""

import os
import sys
from typing import Final

import click

from provider_agent.adapters.base import BackendError
from provider_agent.agent.backends.capabilities import model_offers
from provider_agent.agent.backends.configured import Backends, make_backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.offer_groups import group_by_model
from provider_agent.agent.backends.routing import Refusal, choose_routes
from provider_agent.agent.cli.found_servers import use_found_servers
from provider_agent.agent.cli.one_job import explain, run_one_job, statistics
from provider_agent.agent.cli.settings import INIT_ADVICE, NO_BACKEND, run_async, with_local_config
from provider_agent.agent.cli.terminal import visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.protocol.formats import MAIN_OPERATION, WireFormat

EXIT_FAILED: Final = 1

MAX_LISTED_MODELS: Final = 50
"""How many served models are printed after a refusal; OpenRouter has hundreds."""


@click.command(short_help="Run one job on your backends and print its text.")
@click.argument("model")
@click.argument("prompt")
@click.option(
    "--format",
    "wire_format",
    type=click.Choice([str(known) for known in WireFormat]),
    default=str(WireFormat.OPENAI),
    show_default=True,
    help="The wire format of the request.",
)
@click.option(
    "--max-tokens",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="The most tokens to generate.",
)
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, 86_400, min_open=True),
    help="Timeout of the job in seconds.",
)
@with_local_config
def ask(
    loaded: LoadedConfig,
    model: str,
    prompt: str,
    wire_format: str,
    max_tokens: int,
    timeout: float,
) -> None:
    """Run PROMPT as one job on MODEL, on one of your backends, and print its text and statistics.

    The text is written to standard output as it streams, everything else to standard error.

    Without any configuration, it searches this machine for inference servers.
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
    loaded, note = await use_found_servers(loaded)
    # One text for one mistake: the note says that no backend was found.
    if note:
        click.echo(f"{note}; {INIT_ADVICE}", err=True)
        if not loaded.config.backends:
            return EXIT_FAILED
    elif not loaded.config.backends:
        click.echo(str(NO_BACKEND), err=True)
    backends = make_backends(loaded.config.backends, os.environ)
    discovery = Discovery(backends, lambda: None, pricing=loaded.config.pricing)
    try:
        return await _ask_backends(
            discovery, backends, model, prompt, wire_format, max_tokens, timeout_s
        )
    finally:
        for backend in backends.usable:
            await backend.close()


async def _ask_backends(
    discovery: Discovery,
    backends: Backends,
    model: str,
    prompt: str,
    wire_format: WireFormat,
    max_tokens: int,
    timeout_s: float,
) -> int:
    await discovery.check_all()
    routes = choose_routes(wire_format, "", discovery.routes(model))
    if isinstance(routes, Refusal):
        click.echo(f"{model}: {routes.code}: {routes.message}", err=True)
        _print_why_withheld(model, discovery)
        _print_served_models(discovery, backends)
        return EXIT_FAILED
    backend = routes[0].backend
    out = _StandardOutput()
    try:
        job = await run_one_job(
            backend,
            MAIN_OPERATION[wire_format],
            model,
            prompt,
            max_tokens=max_tokens,
            timeout_s=timeout_s,
            on_text=out.write,
        )
    except BackendError as error:
        if out.error is not None:
            raise out.error from None
        out.end_line()
        click.echo(f"{backend.id}: {visible(explain(error))}", err=True)
        return EXIT_FAILED
    out.end_line()
    seconds = job.duration_ms / 1000
    click.echo(f"\n{backend.id}, {wire_format}: {statistics(job)}, {seconds:.2f} s", err=True)
    return 0


class _StandardOutput:
    """Writes the response's text to standard output.

    Attributes:
        error: the error that writing raised, for example in `ask … | head`; None if it raised none.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._is_terminal = sys.stdout.isatty()
        self._open_line = False

    def write(self, text: str) -> None:
        """Write a part of the response's text.

        Raises:
            OSError: standard output cannot be written, for example because its reader has closed
                it. The exception ends the job.
        """
        try:
            click.echo(visible(text, keep="\n\t") if self._is_terminal else text, nl=False)
        except OSError as error:
            # Kept for the caller: the adapter takes this exception for a failure of its connection
            # to the server, and raises a `BackendError` instead.
            self.error = error
            raise
        self._open_line = True

    def end_line(self) -> None:
        """End the current line, if there is one."""
        if self._open_line:
            click.echo()


def _print_why_withheld(model_id: str, discovery: Discovery) -> None:
    """Print why backends that have the model are not in its offer."""
    group = group_by_model(discovery.served_models()).get(model_id)
    for one, reason, advice in group.withheld if group else ():
        click.echo(f"not offered by {one.backend.id}: {visible(reason)}; {advice}", err=True)


def _print_served_models(discovery: Discovery, backends: Backends) -> None:
    offers = model_offers(discovery.served_models())
    if offers:
        click.echo("These models are served:", err=True)
    for offer in offers[:MAX_LISTED_MODELS]:
        click.echo(f"  {visible(offer.model_id)}  ({', '.join(offer.formats)})", err=True)
    if len(offers) > MAX_LISTED_MODELS:
        click.echo("  and more; `provider-agent models` lists all", err=True)
    for state in discovery.states:
        if not state.health.reachable:
            click.echo(f"{state.backend.id}: {visible(state.health.last_error or '')}", err=True)
    for skipped in backends.skipped:
        click.echo(f"{skipped.backend_id}: skipped: {skipped.reason}", err=True)
