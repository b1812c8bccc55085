"""An inference server that sends every response as fast as the client reads.

It sends from threads that block in the kernel, so that it does not delay the test's event loop. All
responses share one block of memory.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_SNDBUF, SOL_SOCKET
from types import TracebackType
from typing import Self

import msgspec

MODEL = "flood"
CONTENT_BYTES = 4096
SEND_BUFFER_BYTES = 16 * 1024
"""Small, so that a client that stops reading blocks the sender; the default is megabytes."""


def flood(size: int) -> bytes:
    """Build a response stream of about `size` bytes, in numbered events."""
    events = [
        _event(f"{number}/".ljust(CONTENT_BYTES, "x"), None)
        for number in range(size // CONTENT_BYTES)
    ]
    return b"".join([*events, _event("", "stop"), b"data: [DONE]\n\n"])


def _event(content: str, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": "flood", "choices": [choice]}) + b"\n\n"


class FloodServer:
    """A server on loopback; a context manager that waits for its threads on exit.

    Args:
        stream: the body of every response.

    Attributes:
        answered: the number of jobs (POST) whose whole stream was passed to the kernel.
    """

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.answered = 0
        self._answered_lock = threading.Lock()
        flood_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send("application/json", msgspec.json.encode({"data": [{"id": MODEL}]}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not msgspec.json.decode(body, type=dict[str, object]).get("messages"):
                    self.send_error(422)
                    return
                self._send("text/event-stream", flood_server.stream)
                flood_server.count_response()

            def _send(self, content_type: str, body: bytes) -> None:
                self.connection.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.connection.sendall(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="flood"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count_response(self) -> None:
        with self._answered_lock:
            self.answered += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins the threads
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error of a handler: most clients disconnect during a response."""
