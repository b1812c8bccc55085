"""docs/architecture.md names modules, tasks and bounds of the code."""

import re
from pathlib import Path

from documentation.markdown import split_fences
from provider_agent.adapters.requests.offload import INLINE_BYTES
from provider_agent.adapters.responses.gate import MAX_HELD_BYTES
from provider_agent.agent.backends.failover import MAX_ATTEMPTS
from provider_agent.agent.link.resumption import MAX_RESUME_S
from provider_agent.log_writer import MAX_QUEUED_BYTES
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CHUNK_BYTES,
    MAX_LIVE_JOBS,
    MAX_REQUEST_BYTES,
    WINDOW_BYTES,
)

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_named_file_and_folder_exists() -> None:
    prose = "".join(part for part, is_code in split_fences(PAGE) if not is_code)
    missing = []
    folder = ROOT
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", prose):
        if "/" in name:
            folder = (ROOT / name) if name.endswith("/") else (ROOT / name).parent
            found = (ROOT / name).exists()
        else:
            found = (folder / name).exists()  # in the folder of the file before it
        if not found:
            missing.append(name)
    assert missing == []


def test_every_named_module_of_the_diagram_exists() -> None:
    (diagram,) = (part for part, is_code in split_fences(PAGE) if is_code and "mermaid" in part)
    names = re.findall(r"\w+\.py", diagram)
    assert len(names) == 11
    for name in names:
        assert [*(ROOT / "agent").rglob(name), *(ROOT / "adapters").rglob(name)], name


def test_every_named_task_exists() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "agent").rglob("*.py"))
    rows = re.findall(r"^\| tasks? (.*?) \|", PAGE, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) == 9
    for name in names:
        assert re.search(rf'name=f?"{name.removesuffix(" …")}', code), name


def test_the_bounds_are_those_of_the_code() -> None:
    kib, mib = 1024, 1024 * 1024
    assert (512 * kib, 64 * kib, 64 * kib) == (INLINE_BYTES, MAX_HELD_BYTES, CHUNK_BYTES)
    assert (16 * mib, mib, 128 * kib) == (MAX_REQUEST_BYTES, WINDOW_BYTES, BATCH_BYTES)
    assert (4096, 3, 600, mib) == (MAX_LIVE_JOBS, MAX_ATTEMPTS, MAX_RESUME_S, MAX_QUEUED_BYTES)
    for text in ("512 KiB", "64 KiB, 2 MiB", "| 16 MiB |", "1 MiB by default", "128 KiB", "4096"):
        assert text in PAGE
