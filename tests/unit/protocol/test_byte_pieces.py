import pytest

from provider_agent.protocol.byte_pieces import MERGED_BYTES, merge_small, take

LARGE = bytes(MERGED_BYTES)


@pytest.mark.parametrize(
    ("count", "taken", "left"),
    [
        (0, [], [b"ab", b"cd"]),
        (1, [b"a"], [b"b", b"cd"]),
        (2, [b"ab"], [b"cd"]),
        (3, [b"ab", b"c"], [b"d"]),
        (4, [b"ab", b"cd"], []),
        (5, [b"ab", b"cd"], []),
    ],
)
def test_first_bytes_are_taken(count: int, taken: list[bytes], left: list[bytes]) -> None:
    pieces = [b"ab", b"cd"]

    assert (take(pieces, count), pieces) == (taken, left)


@pytest.mark.parametrize(
    ("pieces", "merged"),
    [
        ([], []),
        ([b"a", b"b", b"c"], [b"abc"]),
        ([b"a", LARGE, b"b", b"c"], [b"a", LARGE, b"bc"]),
        ([b"a", LARGE], [b"a", LARGE]),
    ],
)
def test_last_small_pieces_are_merged(pieces: list[bytes], merged: list[bytes]) -> None:
    merge_small(pieces)

    assert pieces == merged
