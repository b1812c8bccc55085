"""Whether the kernel is still busy with this process's TCP connections, as Linux reports it.

`TrafficInspector.idle` compares the two ends of each connection. In a test on loopback, both belong
to this process. The kernel is busy with

- bytes or a FIN in flight: the sender has sent more than the receiver has received;
- bytes in a send buffer, unless the window is closed. The window counts as closed if all sent bytes
  are acknowledged, both ends report a window of zero, and the receiver has unread bytes that its
  process does not read. With a window that is open but smaller than a segment, the kernel is busy:
  it sends that much after up to 200 ms;
- an acknowledgement that a sender needs because it waits for space in its send buffer. The receiver
  may delay the acknowledgement by up to 200 ms;
- a socket that the event loop watches and whose other end is not an open socket of this process:
  the socket is connecting, or a FIN or reset of the closed end is in flight.

The numbers come from `getsockopt(TCP_INFO)` (`struct tcp_info` in linux/tcp.h). The call waits for
the socket's lock. So the kernel has finished a packet that it was processing at the call: the
numbers include the packet, and a selector reports its receiver as ready. This process sends
nothing during a check, so a kernel that is idle at any moment of the check stays idle.

Some states never end: a SYN that a full accept queue drops, bytes dropped for lack of memory, a
connection that no process accepts. They count as idle after `PATIENCE_S` without a change, which is
the only limit in real time; later checks that find the same state count it as idle at once.
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

PATIENCE_S: Final = 0.5
"""Longer than the kernel's delayed acknowledgement (40 to 200 ms, TCP_DELACK_MAX), its first
retransmission and its first window probe (200 ms, TCP_RTO_MIN)."""

Address: TypeAlias = tuple[str, int]

_TCP_INFO_BYTES: Final = 512
_FIELDS: Final = struct.Struct("=24xI100xQ8xI52xQQ12xI")
_RECEIVE_WINDOW: Final = struct.Struct("=I")

# States of a TCP socket (include/net/tcp_states.h of Linux).
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
        unacked_segments: segments that are sent and not acknowledged.
        received: bytes received in order, plus one for a FIN.
        not_sent: bytes that wait in the send buffer, plus one for a FIN behind them.
        sent: bytes sent, without retransmissions and without a FIN.
        send_window: bytes that the other end accepts, as far as this end knows.
        receive_window: bytes that this end accepts; None: Linux before 6.2 does not report it.
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


def is_supported() -> bool:
    """Whether the kernel reports every field that is needed: Linux 5.4 or newer."""
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        raw = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return len(raw) >= _FIELDS.size


class TrafficInspector:
    """Checks every TCP socket of this process; remembers the states that do not change."""

    def __init__(self) -> None:
        self._stalled: frozenset[object] = frozenset()
        self._busy: frozenset[object] = frozenset()
        self._busy_since = 0.0

    def idle(self, registered: Iterable[selectors.SelectorKey]) -> bool:
        """Return whether the kernel has nothing to do until this process acts.

        Args:
            registered: the file descriptors that the event loop waits for. The caller has checked
                that none of them is ready.
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
    """Yield the state of each connection that the kernel is busy with.

    A later call yields an equal object if the state has not changed.
    """
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
    """Whether a peer that is not an open socket of this process may still send a packet."""
    return info.state in _MAY_STILL_RECEIVE or info.unacked_segments > 0


def _in_flight(sender: _Info, receiver: _Info) -> bool:
    """Whether bytes or a FIN have left the sender and not reached the receiver."""
    fin = sender.state in _FIN_QUEUED and not sender.not_sent
    return sender.sent + fin > receiver.received


def _may_send(sender: _Info, receiver: _Info, *, stalled: bool) -> bool:
    """Whether the send buffer of a sender with no bytes in flight may still shrink.

    Args:
        sender: has bytes in its buffer, or waits for space.
        receiver: the other end.
        stalled: the receiver has unread bytes, and its process does not read.
    """
    if sender.unacked_segments or sender.send_window or not stalled:
        return True
    return receiver.receive_window not in (None, sender.send_window)


def _tcp_sockets() -> Iterator[_Socket]:
    """Yield every TCP socket of this process that is connecting or connected."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - ten times as fast
        fd = int(name)
        try:
            end = socket.socket(fileno=fd)  # with its own family, IPv4 or IPv6
        except OSError:  # not a socket
            continue
        try:
            info = _info(end)
            if info.state == _SYN_SENT:
                yield _Socket(fd, _plain(end.getsockname()), None, info)
            elif info.state not in (_CLOSE, _LISTEN):
                yield _Socket(fd, _plain(end.getsockname()), _plain(end.getpeername()), info)
        except OSError:  # not TCP; or reset meanwhile, then the selector reports it
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
    """Strip the prefix that an IPv6 socket adds to an IPv4 address, and IPv6's extra fields."""
    return address[0].removeprefix("::ffff:"), address[1]


def _unread(fd: int) -> int:
    unread = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, unread)
    return unread[0]
