"""`kernel_sockets` derives from the kernel's numbers whether a connection is still busy."""

import socket

import pytest

from tests.kit.kernel_sockets import (
    _in_flight,
    _Info,
    _may_send,
    _peer_may_act,
    _tcp_sockets,
    is_supported,
)

ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT = 1, 2, 4, 5, 8

RECEIVER = _Info(
    state=ESTABLISHED,
    unacked_segments=0,
    received=100,
    not_sent=0,
    sent=0,
    send_window=65536,
    receive_window=0,
)
# `received` counts a FIN as one byte; `sent` does not count it.
SENDER = RECEIVER._replace(received=0, sent=100, send_window=0, receive_window=65536)


@pytest.mark.parametrize(
    ("sender", "in_flight"),
    [
        pytest.param(SENDER, False, id="everything received"),
        pytest.param(
            SENDER._replace(unacked_segments=1), False, id="received but not acknowledged"
        ),
        pytest.param(SENDER._replace(sent=101), True, id="a byte not received"),
        pytest.param(SENDER._replace(state=FIN_WAIT1), True, id="a FIN not received"),
        pytest.param(SENDER._replace(state=FIN_WAIT2, sent=99), False, id="a FIN received"),
        pytest.param(SENDER._replace(state=FIN_WAIT1, not_sent=1), False, id="a FIN not sent"),
    ],
)
def test_in_flight_is_what_was_sent_and_not_received(sender: _Info, in_flight: bool) -> None:
    assert _in_flight(sender, RECEIVER) is in_flight


@pytest.mark.parametrize(
    ("sender", "stalled", "may_send"),
    [
        pytest.param(SENDER, True, False, id="window closed"),
        pytest.param(SENDER, False, True, id="receiver reads"),
        pytest.param(SENDER._replace(unacked_segments=1), True, True, id="not acknowledged"),
        pytest.param(SENDER._replace(send_window=1), True, True, id="window open"),
    ],
)
def test_sender_may_send_until_the_window_of_a_paused_receiver_is_closed(
    sender: _Info, stalled: bool, may_send: bool
) -> None:
    assert _may_send(sender, RECEIVER, stalled=stalled) is may_send


def test_sender_may_send_while_a_window_update_is_in_flight() -> None:
    assert _may_send(SENDER, RECEIVER._replace(receive_window=1), stalled=True)


def test_window_counts_as_closed_if_the_kernel_does_not_report_the_receive_window() -> None:
    assert not _may_send(SENDER, RECEIVER._replace(receive_window=None), stalled=True)


@pytest.mark.parametrize(
    ("info", "busy"),
    [
        pytest.param(SENDER, True, id="established"),
        pytest.param(SENDER._replace(state=SYN_SENT), True, id="connecting"),
        pytest.param(SENDER._replace(state=CLOSE_WAIT), False, id="FIN received"),
        pytest.param(
            SENDER._replace(state=CLOSE_WAIT, unacked_segments=1), True, id="data not acknowledged"
        ),
    ],
)
def test_peer_outside_this_process_may_act_until_its_fin_and_acknowledgements_have_arrived(
    info: _Info, busy: bool
) -> None:
    assert _peer_may_act(info) is busy


@pytest.mark.skipif(not is_supported(), reason="needs Linux 5.4 or newer")
@pytest.mark.parametrize(("bound", "host"), [("::1", "::1"), ("::", "127.0.0.1")])
def test_both_ends_of_a_connection_to_an_ipv6_socket_report_the_same_addresses(
    bound: str, host: str
) -> None:
    # In an earlier version, addresses of IPv6 sockets were read as IPv4 addresses, so the ends of
    # a connection did not match.
    try:
        server = socket.create_server((bound, 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):
        pytest.skip("this machine has no IPv6")
    port = server.getsockname()[1]
    with server, socket.create_connection((host, port)) as client:
        accepted, _ = server.accept()
        with accepted:
            ends = {one.fd: (one.local, one.peer) for one in _tcp_sockets()}
            server_address, client_address = (host, port), client.getsockname()[:2]
            assert ends[client.fileno()] == (client_address, server_address)
            assert ends[accepted.fileno()] == (server_address, client_address)
