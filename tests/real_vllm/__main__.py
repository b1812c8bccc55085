"""`python -m tests.real_vllm VENV [pytest's arguments]`: run the tests with a real vLLM.

VENV is an environment with vLLM, which `make test-vllm` creates. The conformance tests of the
adapters and the tests of this folder run in a separate pytest process. The exit code is that of
pytest, 1 if the server does not start, or 130 if interrupted.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from tests.real_vllm.server import MODEL, VllmServer, VllmStartError, end_with_parent
from tests.real_vllm.tiny_model import write_tiny_model

_ROOT: Final = Path(__file__).parents[2]
_TESTS: Final = ("tests/integration", "tests/real_vllm")
_INTERRUPTED: Final = 130
_INTERRUPT_TIMEOUT_S: Final = 60.0
"""Timeout for an interrupted pytest, which may have to stop its own server."""


async def _main(venv: Path, arguments: list[str]) -> int:
    """Create the model, start the server, run the tests and return the exit code."""
    log = venv / "vllm.log"
    model = venv / "tiny-model"
    write_tiny_model(model)
    server = VllmServer(venv, model, log, api_key=secrets.token_hex(16))
    click.echo(f"Starting a real vLLM with a tiny model: half a minute or so. Its log: {log}")
    started_at = time.monotonic()
    async with server:
        click.echo(f"Ready after {time.monotonic() - started_at:.0f} s at {server.url}. Its tests:")
        code = await _run_tests(server, venv, arguments)
    click.echo("The server is stopped.")
    return code


async def _run_tests(server: VllmServer, venv: Path, arguments: list[str]) -> int:
    variables = {
        "TEST_VLLM_URL": server.url,
        "TEST_VLLM_MODEL": MODEL,
        "TEST_VLLM_KEY": server.api_key or "",
        "TEST_VLLM_VENV": str(venv),
    }
    pytest = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-vv", "-m", "vllm", *_TESTS, *arguments),
        cwd=_ROOT,
        env=os.environ | variables,
        # A new session, so that Ctrl-C does not reach pytest directly: this process passes it on.
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        return await pytest.wait()
    finally:
        with suppress(ProcessLookupError):
            if pytest.returncode is None:
                pytest.send_signal(signal.SIGINT)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_INTERRUPT_TIMEOUT_S):
                        await pytest.wait()
            if pytest.returncode is None:
                pytest.kill()


async def _interruptible(venv: Path, arguments: list[str]) -> int:
    """Run `_main`; SIGINT and SIGTERM cancel it, so that everything is stopped in order."""
    running = asyncio.ensure_future(_main(venv, arguments))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        click.echo("Interrupted; the server is stopped.", err=True)
        return _INTERRUPTED
    except VllmStartError as error:
        click.echo(f"error: {error}", err=True)
        return 1


if __name__ == "__main__":
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "bin" / "python").exists():
        sys.exit("usage: python -m tests.real_vllm VENV [pytest's arguments]; see make test-vllm")
    sys.exit(asyncio.run(_interruptible(Path(sys.argv[1]).absolute(), sys.argv[2:])))
