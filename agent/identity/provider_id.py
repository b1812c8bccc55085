"""The coordinator's name for this agent, kept in the key file.

Only coordinators of the dialect `usepod` need it: the agent sends its enrollment code as long as no
provider id is known. A key file of the Rust agent has a line `provider_id: …`, which that agent
reads too; a PEM file has the same line after its last one, where PEM readers ignore it.
"""

import re
from pathlib import Path
from typing import Final

from provider_agent.agent.private_file import write_private_file
from provider_agent.protocol.field_values import is_name

_LINE: Final = re.compile(rb"^provider_id:(.*)\r?\n?", re.MULTILINE)
_RUST_END: Final = b"-----END USEPOD AGENT KEY-----"
_PEM_END: Final = b"-----END PRIVATE KEY-----"


def read_provider_id(path: Path) -> str:
    """Return the provider id in a key file; "" if it has none or cannot be read."""
    try:
        found = _LINE.search(path.read_bytes())
        return "" if found is None else found[1].decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def store_provider_id(path: Path, provider_id: str) -> None:
    """Put the provider id into a key file, atomically; its mode becomes 0600.

    The lock of `key_lock` stays on the replaced file: until its next start, a running agent is
    noticed by `check` only through its status server.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it has an unknown form, or the id is not one printable line.
    """
    content = with_provider_id(path.read_bytes(), provider_id)
    write_private_file(path, content, replace=True)


def with_provider_id(content: bytes, provider_id: str) -> bytes:
    """Return the content of a key file with another provider id.

    Raises:
        ValueError: the content has an unknown form, or the id is not one printable line.
    """
    if not is_name(provider_id):
        raise ValueError("the provider id is not one printable line")
    line = f"provider_id: {provider_id}\n".encode()
    kept = _LINE.sub(b"", content)
    before, end, after = kept.partition(_RUST_END)
    if end:
        return before + line + end + after
    before, end, _ = kept.partition(_PEM_END)
    if end:
        return before + end + b"\n" + line
    raise ValueError("the key file has an unknown form")
