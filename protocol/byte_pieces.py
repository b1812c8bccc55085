"""Bytes that are held as a list of the pieces in which they arrived."""

from typing import Final

SEPARATE_PIECES: Final = 64
"""Whenever a list has grown by this many pieces, its owner calls `merge_small`: otherwise the
objects of a response that is written byte by byte would take many times its size in memory. To do
so for each piece would cost a call per event."""

MERGED_BYTES: Final = 4096
"""Larger pieces are not merged: the overhead of an object is then one percent."""


def merge_small(pieces: list[bytes]) -> None:
    """Merge the last pieces into one, up to the first of at least `MERGED_BYTES`."""
    small: list[bytes] = []
    while pieces and len(pieces[-1]) < MERGED_BYTES:
        small.append(pieces.pop())
    if small:
        small.reverse()
        pieces.append(b"".join(small))


def take(pieces: list[bytes], count: int) -> list[bytes]:
    """Remove the first `count` bytes, or all if there are fewer, and return them in pieces."""
    whole = 0
    for piece in pieces:
        if len(piece) > count:
            break
        whole += 1
        count -= len(piece)
    taken = pieces[:whole]
    del pieces[:whole]
    if count and pieces:
        taken.append(pieces[0][:count])
        pieces[0] = pieces[0][count:]
    return taken
