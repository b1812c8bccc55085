"""HTTP server for operators and orchestrators: liveness, readiness, metrics, status."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.control.local_control import LocalControl
from provider_agent.agent.telemetry.host_check import HostCheck
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.event_log import EventLogger

if TYPE_CHECKING:
    from aiohttp import web

    from provider_agent.agent.telemetry.status_pages import StatusPages

log = EventLogger(__name__)

_ADVICE: Final = (
    "set another address with `run --prometheus-addr` or observability.prometheus_addr, "
    'or "off" for none'
)
_IN_USE_ADVICE: Final = (
    "another provider-agent may be running: start this one with `--prometheus-addr off` or with "
    "another address (observability.prometheus_addr), or stop the other one"
)


_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""The machine does not have an address that its name has, such as `::1` of "localhost"."""


class StatusServerError(AdvisedError):
    """The server cannot listen; `problem` names the address and the reason."""


class StatusServer:
    """Serves the status page `/`, `/livez`, `/readyz`, `/metrics` and `/status`.

    The pages are read-only and have no authentication. It refuses requests of other web pages.

    Args:
        address: `host:port`, or `host:first-last`, of which the first free port is used; port 0
            selects any free one.
        status: returns the current state; called once per request.
        metrics: shown by `/metrics`.
        fingerprint: the fingerprint of the agent's key, which each response carries.
        allowed_hosts: further host names that it answers for.
        control: checks and carries out commands of the operator; None: there are none.
    """

    def __init__(
        self,
        address: str,
        status: Callable[[], StatusSnapshot],
        metrics: Metrics,
        fingerprint: str = "",
        allowed_hosts: Sequence[str] = (),
        control: LocalControl | None = None,
    ) -> None:
        self._control = control
        self._configured = address.strip()
        self._host, self._ports = listen_address(address)
        self._status = status
        self._metrics = metrics
        self._fingerprint = fingerprint
        self._allowed_hosts = allowed_hosts
        self._sockets: list[socket.socket] = []
        self._pages: StatusPages | None = None
        self._runner: web.ServerRunner | None = None

    def __repr__(self) -> str:
        state = "serving" if self._runner else "listening" if self._sockets else "stopped"
        return f"<StatusServer {self.address} {state}>"

    @property
    def address(self) -> str:
        """The configured address; `host:port` with the actual port once the server listens."""
        if not self._sockets:
            return self._configured
        port = self._sockets[0].getsockname()[1]
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    def listen(self) -> None:
        """Listen on the first free port. Connections wait until `serve`.

        Raises:
            StatusServerError: the server cannot listen on the address.
        """
        in_use = []
        for port in self._ports:
            try:
                self._sockets = _listen(self._host, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port != self._ports[-1]:
                    in_use.append(port)
                    continue
                raise StatusServerError(
                    f"the status server cannot listen on {self.address}: {_reason(error)}",
                    _IN_USE_ADVICE if error.errno == errno.EADDRINUSE else _ADVICE,
                ) from error
            break
        fields = {"ports_in_use": in_use} if in_use else {}
        log.info("status server listening", address=self.address, **fields)

    async def wait_for_connection(self) -> None:
        """Return when a connection waits for `serve`."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        for listening in self._sockets:
            listening.setblocking(False)
            loop.add_reader(listening, arrived.set)
        try:
            await arrived.wait()
        finally:
            for listening in self._sockets:
                loop.remove_reader(listening)

    async def serve(self) -> None:
        """Respond to requests until `stop`. Cancellation leaves the sockets to `stop`."""
        # In a thread, because the import takes longer than an event of a stream may be delayed.
        await asyncio.to_thread(import_module, "provider_agent.agent.telemetry.status_pages")
        from aiohttp import web

        from provider_agent.agent.telemetry.status_pages import StatusPages

        hosts = HostCheck(self._host, self._allowed_hosts)
        self._pages = StatusPages(
            self._status, self._metrics, hosts, self._fingerprint, self._control
        )
        self._runner = self._pages.new_runner()
        await self._runner.setup()
        for listening in self._sockets:
            await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """Close the sockets and all connections; does nothing if the server is stopped."""
        runner, self._runner = self._runner, None
        if self._pages is not None:
            self._pages.close()
        if runner is not None:
            await runner.cleanup()
        for listening in self._sockets:
            listening.close()
        self._sockets = []


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, without IPv6 on a machine that has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, address in found:
        try:
            sockets.append(socket.create_server(address, family=family))
        except OSError as error:
            if error.errno in _ABSENT:
                absent = error
                continue
            for one in sockets:
                one.close()
            raise
    if absent is not None and not sockets:
        raise absent
    return sockets


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return error.strerror or "no such host"
    return os.strerror(error.errno or 0)  # the text of the exception repeats the address
