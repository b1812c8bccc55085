import resource

import pytest

from provider_agent.coordinator.connections.open_files import (
    connection_caps,
    raise_open_files_limit,
)
from provider_agent.coordinator.settings import CoordinatorSettings

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        # 4160: 4096 connections, and RESERVED_FILES.
        (1024, 1_048_576, (4160, 1_048_576), 4096),
        (1024, UNLIMITED, (4160, UNLIMITED), 4096),
        (1024, 2048, (2048, 2048), 1984),
        (8192, 8192, (8192, 8192), 4096),
        (UNLIMITED, UNLIMITED, (UNLIMITED, UNLIMITED), 4096),
    ],
)
def test_limit_of_open_files_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    hard: int,
    raised: tuple[int, int],
    connections: int,
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    raise_open_files_limit(4096)
    assert limits[-1] == raised
    assert connection_caps(CoordinatorSettings()).total == connections
