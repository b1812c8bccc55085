"""Ids of jobs and sessions that name the coordinator that created them.

The first bytes of each such id are those of the coordinator's own id. So an agent that reconnects
to another coordinator tells it, with the ids in its `Hello`, which coordinators to ask.
"""

import zlib
from collections.abc import Callable
from typing import Final

TAG_BYTES: Final = 6
"""Two of 65 coordinators have the same tag with a probability of 1 to 10^11. The ids of one
coordinator keep 74 random bits: those of a UUID without version, variant and tag."""


def tag_of(any_id: bytes) -> bytes:
    """Return the tag of a coordinator, or of the one that created a job or session."""
    return any_id[:TAG_BYTES]


def process_of(instance_id: str) -> int:
    """Return a short hash of the id of an agent's process; 0 if the agent has sent none."""
    return zlib.crc32(instance_id.encode())


def tagged(coordinator: bytes, random_bytes: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a function as `random_bytes` whose results begin with the tag of `coordinator`."""
    return lambda count: tag_of(coordinator) + random_bytes(count - TAG_BYTES)
