"""What the kernel still has to do for this process's TCP connections, asked from Linux.

`TrafficInspector.idle` returns whether the kernel has moved everything that it can move while the
process does nothing. It compares the two ends of each connection, which in a test on loopback both
belong to this process:

- In flight: the sender has sent more bytes (and a FIN) than the receiver has received.
- Not sent: bytes wait in the send buffer. They can move unless the window is closed: everything is
  acknowledged, both ends agree on a window of zero, and the receiver has unread bytes that its
  process does not read. A smaller window than a segment is filled by a timer, after 200 ms.
- Not acknowledged: matters only to a sender that waits for its buffer; it takes up to 200 ms.
- A registered socket without another end in this process: it connects, or the other end is closed
  and its FIN or reset is in flight.

The numbers come from `getsockopt(TCP_INFO)` (`struct tcp_info` in linux/tcp.h). It takes the
socket's lock, so a packet that the kernel is processing is counted, and has made its socket ready.
The process does nothing meanwhile, so the kernel's work can only shrink.

Some work never ends: a SYN that a full accept queue drops, bytes dropped for lack of memory, a
connection that no process accepts. Such a state is idle once it has not changed for `PATIENCE_S`,
the only limit in real time, and at once if it is found again.
"""

import array
import fcntl
import os
import selectors
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

SUPPORTED: Final = sys.platform == "linux"

PATIENCE_S: Final = 0.5
"""Longer than the kernel's delayed acknowledgement (40 to 200 ms, TCP_DELACK_MAX), its first
retransmission and its first window probe (200 ms, TCP_RTO_MIN)."""

Address: TypeAlias = tuple[str, int]
_TCP_INFO_BYTES: Final = 512
_FIELDS: Final = struct.Struct("=24xI100xQ8xI52xQQ12xI")
_RECEIVE_WINDOW: Final = struct.Struct("=I")

_ESTABLISHED: Final = 1
_SYN_SENT: Final = 2
_FIN_WAIT1: Final = 4
_FIN_WAIT2: Final = 5
_CLOSE: Final = 7
_LAST_ACK: Final = 9
_LISTEN: Final = 10
_CLOSING: Final = 11
_FIN_QUEUED: Final = frozenset({_FIN_WAIT1, _FIN_WAIT2, _LAST_ACK, _CLOSING})
_MAY_STILL_RECEIVE: Final = frozenset({_SYN_SENT, _ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2})


class _Info(NamedTuple):
    """The fields of `struct tcp_info` that matter here.

    Attributes:
        unacked_segments: sent and not acknowledged.
        received: bytes in order, and one more for a FIN.
        not_sent: bytes that wait in the send buffer, and one more for a FIN behind them.
        sent: bytes, each counted once, without a FIN.
        send_window: bytes that the other end accepts, as far as this end knows.
        receive_window: bytes that this end accepts; None: Linux before 6.2 does not tell.
    """

    state: int
    unacked_segments: int
    received: int
    not_sent: int
    sent: int
    send_window: int
    receive_window: int | None


class _Socket(NamedTuple):
    """One TCP socket of this process. Its peer is unknown while it connects."""

    fd: int
    local: Address
    peer: Address | None
    info: _Info


class TrafficInspector:
    """Asks the kernel about every TCP socket of this process; remembers connections that stall."""

    def __init__(self) -> None:
        self._stalled: frozenset[object] = frozenset()
        self._busy: frozenset[object] = frozenset()
        self._busy_since = 0.0

    def idle(self, registered: Iterable[selectors.SelectorKey]) -> bool:
        """Return whether no registered file becomes ready unless this process acts.

        Args:
            registered: what the event loop waits for. None of it may be ready.
        """
        busy = frozenset(_busy_connections({key.fd: key.events for key in registered}))
        if busy <= self._stalled:
            self._stalled = busy
            return True
        now = time.monotonic()
        if busy != self._busy:
            self._busy, self._busy_since = busy, now
        elif now - self._busy_since >= PATIENCE_S:
            self._stalled = busy
            return True
        return False


def _busy_connections(events: Mapping[int, int]) -> Iterable[object]:
    """The connections on which the kernel still works, each with its state, to see changes."""
    sockets = list(_tcp_sockets())
    by_address = {(one.local, one.peer): one for one in sockets}
    for one in sockets:
        watched = events.get(one.fd, 0)
        other = by_address.get((one.peer, one.local)) if one.peer else None
        if other is None:
            if watched and _peer_may_act(one.info):
                yield one
        elif _in_flight(one.info, other.info):
            yield one, other
        elif one.info.not_sent or watched & selectors.EVENT_WRITE:
            paused = not events.get(other.fd, 0) & selectors.EVENT_READ
            if _may_send(one.info, other.info, stalled=paused and _unread(other.fd) > 0):
                yield one, other


def _peer_may_act(info: _Info) -> bool:
    """Whether something may come from a peer that is no open socket of this process."""
    return info.state in _MAY_STILL_RECEIVE or info.unacked_segments > 0


def _in_flight(sender: _Info, receiver: _Info) -> bool:
    """Whether bytes or a FIN have left the sender and not reached the receiver."""
    fin = sender.state in _FIN_QUEUED and not sender.not_sent
    return sender.sent + fin > receiver.received


def _may_send(sender: _Info, receiver: _Info, *, stalled: bool) -> bool:
    """Whether a sender whose bytes were all received may still empty its buffer.

    It cannot when all is acknowledged and both ends agree on a closed window. The receiving process
    has to read first.
    """
    if sender.unacked_segments or sender.send_window or not stalled:
        return True
    return receiver.receive_window not in (None, sender.send_window)


def _tcp_sockets() -> Iterator[_Socket]:
    """Every TCP socket of this process that connects or is connected."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - ten times as fast
        fd = int(name)
        try:
            end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        except OSError:  # not a socket
            continue
        try:
            info = _info(end)
            if info.state == _SYN_SENT:
                yield _Socket(fd, _plain(end.getsockname()), None, info)
            elif info.state not in (_CLOSE, _LISTEN):
                yield _Socket(fd, _plain(end.getsockname()), _plain(end.getpeername()), info)
        except OSError:  # not TCP; or reset meanwhile, which makes it ready
            continue
        finally:
            end.detach()


def _info(end: socket.socket) -> _Info:
    raw = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    unacked, received, not_sent, sent, sent_again, send_window = _FIELDS.unpack_from(raw)
    receive_window = None
    if len(raw) >= _FIELDS.size + _RECEIVE_WINDOW.size:
        (receive_window,) = _RECEIVE_WINDOW.unpack_from(raw, _FIELDS.size)
    return _Info(
        raw[0], unacked, received, not_sent, sent - sent_again, send_window, receive_window
    )


def _plain(address: tuple[str, int]) -> Address:
    """Without what an IPv6 socket adds to an IPv4 address."""
    return address[0].removeprefix("::ffff:"), address[1]


def _unread(fd: int) -> int:
    unread = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, unread)
    return unread[0]
