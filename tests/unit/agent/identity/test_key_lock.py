import fcntl
from pathlib import Path
from typing import BinaryIO

import pytest

from provider_agent.agent.identity.key_lock import hold_key_lock, is_key_locked


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    path.write_bytes(b"a key")
    path.chmod(0o400)  # a lock needs only read access
    return path


def test_key_is_locked_until_the_last_agent_releases_it(key: Path) -> None:
    assert not is_key_locked(key)
    with hold_key_lock(key):
        assert is_key_locked(key)
        with hold_key_lock(key):  # a new agent starts while the old one drains
            assert is_key_locked(key)
        assert is_key_locked(key)
    assert not is_key_locked(key)


def test_checking_the_lock_does_not_hold_it(key: Path) -> None:
    assert not is_key_locked(key)
    assert not is_key_locked(key)


def test_missing_key_is_not_locked(tmp_path: Path) -> None:
    assert not is_key_locked(tmp_path / "none")


def test_agent_that_starts_during_a_check_holds_the_lock(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: such an agent ran without the lock, because the check holds an exclusive one for a
    # moment.
    lock = fcntl.flock
    with key.open("rb") as checked:
        lock(checked, fcntl.LOCK_EX)

        def wait(file: BinaryIO, operation: int) -> None:
            if not operation & fcntl.LOCK_NB:
                checked.close()  # the check ends while the agent waits
            lock(file, operation)

        monkeypatch.setattr(fcntl, "flock", wait)
        with hold_key_lock(key):
            checked.close()
            assert is_key_locked(key)
