import errno
import os
from pathlib import Path

import pytest

from provider_agent.agent.private_file import write_private_file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_new_file_is_private(target: Path) -> None:
    write_private_file(target, b"new", replace=False)

    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert names_in(target.parent) == ["agent.toml"]


def test_existing_file_is_kept(target: Path) -> None:
    target.write_text("mine", "utf-8")

    with pytest.raises(FileExistsError):
        write_private_file(target, b"new", replace=False)

    assert target.read_text("utf-8") == "mine"
    assert names_in(target.parent) == ["agent.toml"]


def test_replaced_file_is_private_even_if_the_old_one_was_not(target: Path) -> None:
    target.write_text("old", "utf-8")
    target.chmod(0o644)

    write_private_file(target, b"new", replace=True)

    assert target.read_text("utf-8") == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_symbolic_link_is_kept_and_its_target_is_replaced(target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("old", "utf-8")
    target.symlink_to(other)

    write_private_file(target, b"new", replace=True)

    assert target.is_symlink()
    assert other.read_text("utf-8") == "new"


@pytest.mark.parametrize("exists", [False, True])
def test_file_system_without_hard_links(
    exists: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    if exists:
        target.write_text("mine", "utf-8")
        with pytest.raises(FileExistsError):
            write_private_file(target, b"new", replace=False)
    else:
        write_private_file(target, b"new", replace=False)

    assert target.read_text("utf-8") == ("mine" if exists else "new")
    assert names_in(target.parent) == ["agent.toml"]


def test_failure_leaves_no_draft(target: Path) -> None:
    target.mkdir()

    with pytest.raises(IsADirectoryError):
        write_private_file(target, b"new", replace=True)

    assert names_in(target.parent) == ["agent.toml"]
