"""A real llama.cpp HTTP server on loopback, as a program; `--help` lists its options.

Prints `READY <url>` when the model is loaded, then serves until SIGTERM, SIGINT or the end of
standard input, which its parent process holds open.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provider_agent.agent.cli.demo.extra import DemoExtraMissing, require_extra

if TYPE_CHECKING:
    import xllamacpp

READY: Final = "READY "
"""Precedes the address on standard output."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_ERRORS_ONLY: Final = 1  # on llama.cpp's scale of verbosity


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped, then exit with 0. Returns the exit code 1 if `xllamacpp` is missing."""
    options = _parser().parse_args(arguments)
    try:
        require_extra("xllamacpp")
    except DemoExtraMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # The server's threads, started below, inherit this mask, so that only `sigwait` receives the
    # signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    server = _start(options)
    sys.stdout.write(f"{READY}{server.listening_address}\n")
    sys.stdout.flush()
    threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    signal.sigwait(_STOP_SIGNALS)
    # Exits without the server's own shutdown, which would wait for running responses.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provider_agent.agent.cli.demo.llamacpp_server")
    parser.add_argument("port", type=int, help="0: a free one")
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--alias", help="id of the model; default: its path")
    parser.add_argument("--parallel", type=int, default=1, help="number of slots")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens of all slots together")
    parser.add_argument("--api-key-env", help="environment variable with the required key")
    parser.add_argument("--metrics", action="store_true", help="serve /metrics")
    return parser


def _start(options: argparse.Namespace) -> "xllamacpp.Server":
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.ctx
    # One thread is the fastest for a tiny model.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = options.metrics
    params.verbosity = _ERRORS_ONLY
    params.fit_params = False  # do not measure the machine's free memory
    params.cache_ram_mib = 0
    if options.alias:
        params.model_alias = {options.alias}
    if options.api_key_env:
        params.api_keys = [os.environ[options.api_key_env]]
    return xllamacpp.Server(params)


def _stop_when_stdin_closes() -> None:
    """Send SIGTERM to this process when the parent ends: the kernel then closes the pipe."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
