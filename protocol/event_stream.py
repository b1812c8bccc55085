"""Where a stream of server-sent events can be continued: after a blank line."""


def unify_line_ends(data: bytes) -> bytes:
    """Replace CRLF and CR by LF; all three end a line (WHATWG HTML, section 9.2.6)."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if 0x0D in data else data


def ends_between_events(tail: bytes) -> bool:
    """Whether a stream whose last bytes are `tail` ends with a blank line.

    A `tail` of four bytes is enough: a line end and a blank line take at most CRLF CRLF.
    """
    return unify_line_ends(tail).endswith(b"\n\n")
