import os
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from provider_agent.websocket.client_frames import encode_messages


def received(data: bytes) -> list[Frame]:
    """Return the frames that a server reads."""
    server = Protocol(Side.SERVER, max_size=None)
    server.receive_data(data)
    return cast("list[Frame]", server.events_received())


@given(st.lists(st.binary(max_size=300)), st.booleans())
def test_a_server_reads_the_messages(messages: list[bytes], is_text: bool) -> None:
    opcode = Opcode.TEXT if is_text else Opcode.BINARY

    data = encode_messages(messages, is_text=is_text, random_bytes=os.urandom)

    assert received(data) == [Frame(opcode, message) for message in messages]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 1_000_000])
def test_each_form_of_the_length(size: int) -> None:
    message = os.urandom(size)

    data = encode_messages([message, b"next"], is_text=False, random_bytes=os.urandom)

    assert [frame.data for frame in received(data)] == [message, b"next"]


def test_each_message_has_a_mask_of_its_own() -> None:
    def count_up(count: int) -> bytes:
        return bytes(range(count))

    data = encode_messages([b"", b""], is_text=False, random_bytes=count_up)

    assert data == b"\x82\x80\0\1\2\3" + b"\x82\x80\4\5\6\7"
