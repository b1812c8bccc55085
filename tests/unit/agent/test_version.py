import importlib.metadata
from collections.abc import Iterator

import pytest

from provider_agent.agent import version


@pytest.fixture(autouse=True)
def forget_version() -> Iterator[None]:
    version.agent_version.cache_clear()
    yield
    version.agent_version.cache_clear()


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", {"provider-agent": "1.2.3"}.__getitem__)
    assert version.agent_version() == "1.2.3"


def test_version_of_source_that_is_not_installed_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)
    assert version.agent_version() == "0+unknown"
