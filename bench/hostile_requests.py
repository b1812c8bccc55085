"""Measures how long hostile requests block the agent's event loop while they are prepared.

`python -m bench.hostile_requests` prints a table, and exits with 1 if a request blocks the event
loop for more than `BOUND_MS`. "idle" shows the pauses of the same event loop without work: on a
busy machine, compare with it.
"""

import asyncio
import gc
import sys
import time
from functools import partial
from typing import Final

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from provider_agent.adapters.base import BackendSettings, BadRequest, Job, Operation
from provider_agent.adapters.errors import PromptTooLong
from provider_agent.adapters.requests import offload
from provider_agent.adapters.servers.ollama import OllamaBackend
from provider_agent.protocol.limits import KIB, MIB

BOUND_MS: Final = 20.0
"""The longest pause of the event loop that one request may cause."""

ROUNDS: Final = 25
TICK_S: Final = 0.0005
WINDOW_TOKENS: Final = 10_000_000
"""The context window of the model: so large that no request is refused because of its length."""


class Hostile(Struct):
    """One request.

    Attributes:
        name: its label in the table.
        body: the request.
        operation: its operation.
    """

    name: str
    body: bytes
    operation: Operation = Operation.CHAT


def _repeated(start: bytes, piece: bytes, end: bytes, size: int = 16 * MIB) -> bytes:
    return start + piece * ((size - len(start) - len(end)) // len(piece)) + end


def _fields(number: int) -> bytes:
    return b",".join(b'"%d":1' % index for index in range(number))


REQUESTS: Final = [
    Hostile("16 MiB of [0,0,...] as tools", _repeated(b'{"tools":[', b"0,", b"0]}")),
    Hostile("1.3 million fields", b'{"metadata":{' + _fields(1_300_000) + b"}}"),
    Hostile("16 MiB of [[[...", _repeated(b'{"x":', b"[", b"")),
    Hostile(
        "16 MiB of text",
        _repeated(b'{"messages":[{"role":"user","content":"', b"two words ", b'"}]}'),
    ),
    Hostile(
        "16 MiB of escapes",
        _repeated(b'{"messages":[{"role":"user","content":"', rb"\u00e9\"", b'"}]}'),
    ),
    Hostile(
        "2 million escapes",
        _repeated(b'{"messages":[{"role":"user","content":"', b'\\"xxxxxxx', b'"}]}'),
    ),
    Hostile(
        "16 MiB without a space",
        _repeated(b'{"messages":[{"role":"user","content":"', b"x", b'"}]}'),
    ),
    Hostile("as many top-level fields as are allowed", b"{" + _fields(40_000) + b"}"),
    Hostile("99,000 values in one field", _repeated(b'{"tools":[', b"0,", b"0]}", 199_000)),
    Hostile(
        "10,000 messages",
        _repeated(b'{"messages":[', b'{"role":"user"},', b'{"role":"user"}]}', 160_000),
    ),
    Hostile(
        "40,000 messages",
        _repeated(b'{"messages":[', b'{"role":"user"},', b'{"role":"user"}]}', 639_000),
    ),
    Hostile(
        "100,000 messages without a field",
        _repeated(b'{"messages":[', b"{},", b"{}]}", 299_000),
    ),
    Hostile(
        "36,000 parts of messages",
        b'{"messages":['
        + b",".join(
            [b'{"role":"user","content":[' + b",".join([b'{"type":"text"}'] * 9_000) + b"]}"] * 4,
        )
        + b"]}",
    ),
    Hostile(
        "a schema of 10,000 lists",
        _repeated(b'{"response_format":{"schema":[', b"[],", b"[]]}}", 29 * KIB),
    ),
    Hostile(
        "310,000 token ids",
        _repeated(b'{"prompt":[', b"9,", b"9]}", 619_000),
        Operation.COMPLETIONS,
    ),
    Hostile(
        "2,000 values of messages (prepared in the event loop)",
        _repeated(
            b'{"messages":[',
            b'{"content":[{"type":"text"}],"role":"user"},',
            b'{"role":"user"}]}',
            17 * KIB,
        ),
    ),
    Hostile(
        "512 KiB of escapes (prepared in the event loop)",
        _repeated(b'{"messages":[{"role":"user","content":"', rb"\n", b'"}]}', 512 * KIB),
    ),
    Hostile(
        "4 KiB of a grammar",
        _repeated(b'{"grammar":"root ::=', b" (bbb c)?", b'\\nbbb ::= c\\nc ::= [a-z]"}', 4 * KIB),
    ),
    Hostile(
        "40 KiB of a schema",
        _repeated(
            b'{"json_schema":{"anyOf":[',
            b'{"properties":{"a":{"anyOf":[{"$ref":"#"},{"items":{}}]},"b":{"$ref":"#"}}},',
            b"{}]}}",
            40 * KIB,
        ),
    ),
]


class _Pauses:
    """Measures the longest time between two turns of the event loop, beyond `TICK_S`."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._last = time.perf_counter()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        self.longest_ms = max(self.longest_ms, (now - self._last - TICK_S) * 1000)
        self._last = now

    def stop(self) -> float:
        self._note()
        self._task.cancel()
        return self.longest_ms


async def measure(request: Hostile | None) -> tuple[float, float, str]:
    """Return milliseconds until the request is prepared, the longest pause, and the outcome.

    Without a request, measure the pauses of the idle event loop.
    """
    backend = OllamaBackend(BackendSettings(kind="ollama"))
    backend._windows["m"] = WINDOW_TOKENS  # noqa: SLF001 - as if the model list reported it
    pauses = _Pauses()
    await asyncio.sleep(0.02)
    pauses.longest_ms = 0.0
    started, outcome = time.perf_counter(), ""
    if request is None:
        await asyncio.sleep(0.2)
    else:
        operation = request.operation
        job = Job(bytes(16), "m", operation.wire_format, request.body, 60_000, operation)
        try:
            work = partial(backend.prepare, job, operation)
            outcome = f"{len((await offload.call(work, request.body)).body):,} bytes are sent"
        except (BadRequest, PromptTooLong) as error:
            outcome = str(error)
    took_ms = (time.perf_counter() - started) * 1000
    return took_ms, pauses.stop(), outcome


async def main() -> bool:
    """Print the table; return whether every row keeps the bound."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("request", "ms", "longest pause ms", "outcome"):
        table.add_column(title, justify="right" if "ms" in title else "left")
    gc.freeze()  # as the agent does
    kept = True
    for request in (None, *REQUESTS):
        # The shortest of several rounds: other programs can only lengthen a pause.
        rounds = [await measure(request) for _ in range(ROUNDS)]
        pause_ms = min(pause for _, pause, _ in rounds)
        kept &= pause_ms <= BOUND_MS
        table.add_row(
            request.name if request else "idle",
            f"{min(took for took, _, _ in rounds):.1f}",
            f"{pause_ms:.1f}",
            rounds[0][2][:60],
        )
    Console(width=140).print(table)
    return kept


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
