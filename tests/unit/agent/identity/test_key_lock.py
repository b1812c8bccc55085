from pathlib import Path

import pytest

from provider_agent.agent.identity.key_lock import hold_key_lock, is_key_locked


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    path.write_bytes(b"a key")
    path.chmod(0o400)
    return path


def test_a_key_is_in_use_as_long_as_somebody_runs_with_it(key: Path) -> None:
    assert not is_key_locked(key)
    with hold_key_lock(key):
        assert is_key_locked(key)
        with hold_key_lock(key):  # the next one starts while this one drains
            assert is_key_locked(key)
        assert is_key_locked(key)
    assert not is_key_locked(key)


def test_asking_takes_the_key_from_nobody(key: Path) -> None:
    assert not is_key_locked(key)
    assert not is_key_locked(key)


def test_a_key_that_is_not_there_is_not_in_use(tmp_path: Path) -> None:
    assert not is_key_locked(tmp_path / "none")
