"""The rules by which the kernel's numbers for two ends of a connection mean work or rest."""

import pytest

from tests.kit.kernel_sockets import _buffer_may_shrink, _Info, _may_receive, _peer_may_act

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
SENDER = RECEIVER._replace(received=0, sent=100, send_window=0, receive_window=65536)


@pytest.mark.parametrize(
    ("sender", "busy"),
    [
        pytest.param(SENDER, False, id="all of it delivered"),
        pytest.param(SENDER._replace(unacked_segments=1), False, id="only not acknowledged"),
        pytest.param(SENDER._replace(sent=101), True, id="a byte in flight"),
        pytest.param(SENDER._replace(not_sent=1), True, id="a byte not sent"),
        pytest.param(SENDER._replace(state=FIN_WAIT1), True, id="a FIN in flight"),
        pytest.param(SENDER._replace(state=FIN_WAIT2, sent=99), False, id="a FIN delivered"),
        pytest.param(SENDER._replace(state=FIN_WAIT1, not_sent=1), True, id="a FIN not sent"),
    ],
)
def test_receiver_without_unread_bytes(sender: _Info, busy: bool) -> None:
    assert _may_receive(RECEIVER, sender) is busy


@pytest.mark.parametrize(
    ("sender", "stalled", "busy"),
    [
        pytest.param(SENDER, True, False, id="window closed"),
        pytest.param(SENDER, False, True, id="receiver reads"),
        pytest.param(SENDER._replace(sent=101), True, True, id="a byte in flight"),
        pytest.param(SENDER._replace(unacked_segments=1), True, True, id="not acknowledged"),
        pytest.param(SENDER._replace(send_window=1), True, True, id="a window update in flight"),
    ],
)
def test_sender_with_a_full_buffer(sender: _Info, stalled: bool, busy: bool) -> None:
    assert _buffer_may_shrink(sender, RECEIVER, stalled=stalled) is busy


@pytest.mark.parametrize(
    ("info", "busy"),
    [
        pytest.param(SENDER, True, id="established, so a FIN or a reset comes"),
        pytest.param(SENDER._replace(state=SYN_SENT), True, id="connecting"),
        pytest.param(SENDER._replace(state=CLOSE_WAIT), False, id="FIN received"),
        pytest.param(
            SENDER._replace(state=CLOSE_WAIT, unacked_segments=1), True, id="its answer comes"
        ),
    ],
)
def test_peer_without_an_open_socket(info: _Info, busy: bool) -> None:
    assert _peer_may_act(info) is busy


def test_window_of_a_kernel_that_does_not_tell_is_believed() -> None:
    old = RECEIVER._replace(receive_window=None)
    assert not _buffer_may_shrink(SENDER._replace(send_window=1), old, stalled=True)
