"""Servers that are not what the operator expects at their address, in threads."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WRONG_SERVERS: Final = {
    "other": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "patient": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "key": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "alert": b"\x15\x03\x03\x00\x02\x02\x46",
    "nginx": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 41\r\nConnection: close\r\n\r\n"
    b"plain HTTP request was sent to HTTPS port",
}
"""The response to every request, by the name of the server. `other` answers a TLS handshake with
status 400, as most servers do; `patient` waits for the end of a request's head."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
_HANDSHAKE: Final = b"\x16\x03"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def wrong_server(name: str) -> Iterator[int]:
    """Run a server of `WRONG_SERVERS`, and yield its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b""
            while b"\r\n\r\n" not in received:
                data = self.request.recv(65536)
                if not data:
                    return
                received += data
                if received.startswith(_HANDSHAKE) and name != "patient":
                    self.request.sendall(_BAD_REQUEST)
                    return
            self.request.sendall(WRONG_SERVERS[name])

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
