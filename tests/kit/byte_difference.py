"""Describes where two byte strings differ, for the messages of failed checks."""


def byte_difference(received: bytes, sent: bytes) -> str:
    """Return both lengths, the first offset that differs, and the bytes around it."""
    offset = next(
        (at for at, (one, other) in enumerate(zip(received, sent, strict=False)) if one != other),
        min(len(received), len(sent)),
    )
    around = slice(max(0, offset - 60), offset + 60)
    return (
        f"{len(received)} bytes received of {len(sent)}; they differ at {offset}: "
        f"{received[around]!r} instead of {sent[around]!r}"
    )
