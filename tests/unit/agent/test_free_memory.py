from provider_agent.agent.free_memory import RETURNED_BYTES, FreeMemory, resident_bytes
from provider_agent.protocol.limits import MIB

IDLE = 50 * MIB


def test_freed_memory_is_returned_once_it_is_large() -> None:
    resident = [IDLE, IDLE + RETURNED_BYTES - 1, IDLE + RETURNED_BYTES, IDLE + MIB, IDLE + MIB]
    trims: list[None] = []
    memory = FreeMemory(lambda: resident.pop(0), lambda: trims.append(None))
    memory.return_if_large()
    memory.return_if_large()
    assert not trims
    memory.return_if_large()
    assert len(trims) == 1
    memory.return_if_large()
    assert len(trims) == 1


def test_memory_that_cannot_be_returned_is_not_trimmed_again() -> None:
    trims: list[None] = []
    resident = [IDLE]
    memory = FreeMemory(lambda: resident[0], lambda: trims.append(None))
    memory.return_if_large()
    resident[0] = IDLE + 2 * RETURNED_BYTES
    for _ in range(3):
        memory.return_if_large()
    assert len(trims) == 1


def test_memory_of_this_process_is_returned() -> None:
    blocks = [bytes(100_000 + size) for size in range(2000)]
    kept = [bytearray(size % 4000) for size in range(10_000)]
    held = resident_bytes()
    memory = FreeMemory()
    memory._least = held - 2 * RETURNED_BYTES
    blocks.clear()
    memory.return_if_large()
    assert not held or resident_bytes() < held - RETURNED_BYTES, len(kept)
