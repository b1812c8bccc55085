"""The relays that `bench.relay` compares: how each is started."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tests.kit.certificates import CertificateAuthority

_STOP_S = 10.0

_RUST_CONFIG = """
[operator]
display_name = "bench"
wallet = "11111111111111111111111111111111"
contact_email = "bench@example.com"
[coordinator]
url = "{coordinator}"
enrollment_code = "bench"
[identity]
key_path = "identity.key"
[[backends]]
kind = "vllm"
url = "{server}"
[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000
[limits]
max_concurrent = {streams}
max_tokens_per_minute = 1_000_000_000
"""

_USEPOD = """dialect = "usepod"
[pricing]
default_input_per_1m = 500_000
default_output_per_1m = 750_000
"""

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    client_body_buffer_size 1m;
    client_max_body_size 16m;
    keepalive_requests 1000000;
    upstream servers {{
        {servers}
        keepalive 4096;
        keepalive_requests 1000000;
    }}
    {tls}
    server {{
        listen 127.0.0.1:{port} backlog=4096{listen_options};
        location / {{
            proxy_pass {scheme}://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

_NGINX_TLS = """
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    proxy_ssl_trusted_certificate {authority};
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
"""


class Relay(Struct):
    """One relay.

    Attributes:
        name: its name in tables.
        http: whether clients send HTTP requests to it; otherwise it dials the coordinator.
        loose: whether it may encode events anew, so that only their contents can be compared.
        max_streams: how many jobs it can run at once.
        receipts: whether the coordinator asks for signed receipts.
        python: another interpreter for the agent; "": the one that runs the benchmark.
        coalesce_ms: the agent's `coordinator.coalesce_ms`; None: the default.
        usepod: whether the agent speaks the dialect `usepod`.
        cluster: whether it is a cluster of two coordinators, which `bench.cluster_relay` starts.
        command: how to start it, with the places `{port}`, `{server}` and `{coordinator}`. It runs
            in a folder with an `agent.toml` of the existing Rust agent.
    """

    name: str
    http: bool = False
    loose: bool = False
    receipts: bool = False
    max_streams: int = 1000
    python: str = ""
    coalesce_ms: float | None = None
    usepod: bool = False
    cluster: bool = False
    command: str = ""

    def load_options(self, port: int) -> list[str]:
        """The options of the load generator for this relay, which listens on `port` if `http`."""
        options = [f"--target={port}"] if self.http else []
        if self.loose:
            options.append("--loose")
        if self.receipts:
            options.append("--receipts")
        return options


OBVIOUS = Relay("obvious")
AGENT = Relay("agent")
RECEIPTS = Relay("agent, receipts", receipts=True)
USEPOD = Relay("agent, usepod", usepod=True)
NGINX = Relay("nginx", http=True)
COORDINATOR = Relay("coordinator", http=True)
RESTS = Relay("rests")
DOES_NOT_REST = Relay("does not rest", coalesce_ms=0)


class Certificate(Struct):
    """A certificate for `127.0.0.1` and `localhost`, as files.

    Attributes:
        authority: what the relays trust.
        file: the certificate and its key.
    """

    authority: Path
    file: Path


def new_certificate(folder: Path) -> Certificate:
    """Create a certificate and its authority in `folder`."""
    authority = CertificateAuthority(folder)
    return Certificate(authority.file, authority.issue("127.0.0.1", "localhost"))


class Place(Struct):
    """Where a relay runs.

    Attributes:
        folder: an empty folder for its files.
        servers: the ports of the inference servers.
        coordinator: the port of the coordinator to dial.
        port: where it listens, if it is an HTTP server.
        streams: how many jobs run at once.
        certificate: that of all servers; None: without TLS.
    """

    folder: Path
    servers: list[int]
    coordinator: int
    port: int
    streams: int
    certificate: Certificate | None = None

    @property
    def server_urls(self) -> list[str]:
        """The addresses of the inference servers."""
        scheme = "http" if self.certificate is None else "https"
        return [f"{scheme}://127.0.0.1:{port}" for port in self.servers]

    @property
    def coordinator_url(self) -> str:
        """The address of the coordinator to dial."""
        scheme = "ws" if self.certificate is None else "wss"
        return f"{scheme}://127.0.0.1:{self.coordinator}/"


class RunningRelay:
    """The processes of a relay.

    Args:
        place: where it runs.
        commands: how to start each process.
        cwd: their working folder; None: that of the benchmark.
        measured: the names of the processes that are measured, which are the first ones.

    Attributes:
        pids: their process ids.
        measured: by name: the processes that are measured.
    """

    def __init__(
        self,
        place: Place,
        *commands: Sequence[str],
        cwd: Path | None = None,
        measured: Sequence[str] = ("relay",),
    ) -> None:
        self._log = place.folder / "log"
        env = dict(os.environ)
        if place.certificate is not None:
            env["SSL_CERT_FILE"] = str(place.certificate.authority)
        with self._log.open("wb") as log:
            self._processes = [
                subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
                for command in commands
            ]
        self.pids = [process.pid for process in self._processes]
        self.measured = dict(zip(measured, self.pids, strict=False))

    def log(self) -> str:
        """The last lines that the processes have printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def times_logged(self, text: str) -> int:
        """How often the processes have printed `text`."""
        return self._log.read_text(errors="replace").count(text)

    def runs(self) -> bool:
        """Whether no process has exited."""
        return all(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        """Terminate the processes, and wait for their end."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start(relay: Relay, place: Place) -> RunningRelay:
    """Start a relay; it may not work yet."""
    dialed = place.coordinator_url
    if relay.command:
        return _given(relay.command, place)
    if relay.name == "obvious":
        command = [sys.executable, "-m", "bench.obvious_relay", dialed, *place.server_urls]
        return RunningRelay(place, command)
    if relay.name == "nginx":
        return RunningRelay(place, _nginx(place))
    if relay.name == "coordinator":
        agent = agent_command(relay, place, connect_url(place.port))
        return RunningRelay(place, coordinator_command(place.port), agent)
    return RunningRelay(place, agent_command(relay, place, dialed))


def _given(command: str, place: Place) -> RunningRelay:
    server, dialed = place.server_urls[0], place.coordinator_url
    config = _RUST_CONFIG.format(coordinator=dialed, server=server, streams=place.streams)
    (place.folder / "agent.toml").write_text(config)
    filled = command.format(port=place.port, server=server, coordinator=dialed)
    return RunningRelay(place, shlex.split(filled), cwd=place.folder)


def free_port() -> int:
    """A port of loopback that no process uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def coordinator_command(port: int) -> list[str]:
    """How to start a coordinator that listens on `port`."""
    return [sys.executable, "-m", "provider_agent.coordinator", f"--port={port}"]


def connect_url(port: int) -> str:
    """Where agents dial the coordinator that listens on `port`."""
    return f"ws://127.0.0.1:{port}/provider/connect"


def agent_command(relay: Relay, place: Place, dialed: str) -> list[str]:
    """Write the configuration of an agent as operators run it; return its command."""
    jobs = -(-place.streams // len(place.servers))
    backends = "".join(
        f'[[backends]]\nkind = "openai_compatible"\nurl = "{url}"\nmax_concurrent = {jobs}\n'
        for url in place.server_urls
    )
    rest = "" if relay.coalesce_ms is None else f"coalesce_ms = {relay.coalesce_ms}\n"
    usepod = _USEPOD if relay.usepod else ""
    config = place.folder / "agent.toml"
    config.write_text(
        f'[coordinator]\nurl = "{dialed}"\n{rest}{usepod}'
        f'[identity]\nkey_path = "{place.folder}/identity.key"\n'
        f"{backends}[limits]\nmax_concurrent = {jobs * len(place.servers)}\n"
        f'[observability]\nprometheus_addr = "127.0.0.1:{free_port()}"\n'
    )
    python = relay.python or sys.executable
    return [python, "-m", "provider_agent.agent.cli.main", "run", "-c", str(config)]


def _nginx(place: Place) -> list[str]:
    tls = ""
    if (certificate := place.certificate) is not None:
        tls = _NGINX_TLS.format(certificate=certificate.file, authority=certificate.authority)
    config = place.folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            folder=place.folder,
            servers=" ".join(f"server 127.0.0.1:{port};" for port in place.servers),
            port=place.port,
            tls=tls,
            listen_options=" ssl" if tls else "",
            scheme="https" if tls else "http",
        )
    )
    return [shutil.which("nginx") or "nginx", "-e", "stderr", "-c", str(config)]
