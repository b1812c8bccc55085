import errno
import os
import stat
from pathlib import Path

import pytest

from provider_agent.agent.availability.availability import Pause
from provider_agent.agent.control.pause_store import PauseStore

PAUSES = {"": Pause(), "vllm:http://127.0.0.1:8000": Pause(1234.5)}


def test_pauses_are_stored_privately_beside_the_key(tmp_path: Path) -> None:
    store = PauseStore(tmp_path / "identity.key")
    assert store.load() == {}
    assert store.save(PAUSES) == ""
    assert stat.S_IMODE((tmp_path / "identity.key.pauses").stat().st_mode) == 0o600
    assert PauseStore(tmp_path / "identity.key").load() == PAUSES
    assert store.save({}) == ""
    assert list(tmp_path.iterdir()) == []


def test_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    problem = PauseStore(tmp_path / "missing" / "identity.key").save(PAUSES)
    assert problem.endswith("identity.key.pauses cannot be written: No such file or directory")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"":1}',
        b'{"":{"until":"x"}}',
        b'{"":{"until":1e300}}',
        b'{"":{"until":-1}}',
        b'{"":{"until":253402300800}}',
        b"\xff",
    ],
)
def test_agent_with_a_damaged_file_is_paused(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "identity.key.pauses").write_bytes(content)
    store = PauseStore(tmp_path / "identity.key")
    assert store.load() == {"": Pause()}
    assert caplog.messages == ["pauses not read"]
    assert store.save({}) == ""
    assert store.load() == {}


def test_loop_of_symbolic_links_is_reported(tmp_path: Path) -> None:
    store = PauseStore(tmp_path / "identity.key")
    store.path.symlink_to(store.path)
    assert store.load() == {"": Pause()}
    # Python 3.13 and newer replace the link.
    assert store.save(PAUSES) in ("", f"{store.path} cannot be written: {os.strerror(errno.ELOOP)}")
